// The arena of a step: what is taken back is used again, and after the first step it is one block of what was used at most.
#include <doctest/doctest.h>
#include <vaelib/core/arena.hpp>

using namespace vaelib;

TEST_CASE("Arena: one block of the most that was used") {
  constexpr std::size_t mib = 1 << 20;
  Arena arena;
  const auto use = [&] {
    arena.allocate<char>(mib);
    const auto mark = arena.mark();
    auto* inner = arena.allocate<char>(3 * mib);
    CHECK(arena.allocated_since(mark, inner));
    arena.rewind(mark);
    CHECK_FALSE(arena.allocated_since(mark, inner));
    arena.allocate<char>(2 * mib);
    auto* last = arena.allocate<char>(2 * mib);  // where the three were there is no room for it
    arena.rewind(mark);
    return last;
  };
  use();
  CHECK(arena.capacity() >= 6 * mib);  // opened piecemeal
  arena.reset();
  CHECK(arena.capacity() == 5 * mib);
  auto* last = use();
  CHECK(arena.capacity() == 5 * mib);  // nothing more was needed
  arena.reset();
  CHECK(use() == last);
}
