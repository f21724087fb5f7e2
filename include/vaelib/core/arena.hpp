// Memory of one step: handed out by moving a pointer, taken back all at once. After the largest batch was seen, the arena
// is one block of the right size and no step allocates from the heap any more.
#pragma once

#include <vaelib/core/error.hpp>

#include <cstddef>
#include <cstring>
#include <new>
#include <vector>

namespace vaelib::inline VAELIB_ABI {

class Arena {
 public:
  static constexpr std::size_t alignment = 64;
  struct Mark {
    std::size_t block, used;
  };

  Arena() = default;
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;
  ~Arena() { release(); }

  /// Uninitialised memory for `count` objects, aligned to a cache line.
  template <class T>
  T* allocate(std::size_t count) {
    static_assert(std::is_trivially_destructible_v<T>, "vaelib: the arena runs no destructors");
    return static_cast<T*>(take(count, sizeof(T)));
  }
  /// Memory for `count` objects of `size` bytes each. Not inlined: operations call it all over, and are coarse.
  [[gnu::noinline]] void* take(std::size_t count, std::size_t size) {
    if (count > (std::size_t(-1) / 4) / size) fail("arena: ", count, " objects of ", size, " bytes are too many");
    const std::size_t bytes = (count * size + alignment - 1) / alignment * alignment;
    while (current + 1 < blocks.size() && blocks[current].size - blocks[current].used < bytes) ++current;
    if (blocks.empty() || blocks[current].size - blocks[current].used < bytes) {
      open(bytes > smallest ? bytes : smallest);
      current = blocks.size() - 1;
    }
    Block& block = blocks[current];
    void* result = block.data + block.used;
    block.used += bytes;
    live += bytes;
    if (live > most) most = live;
    return result;
  }

  Mark mark() const { return {current, blocks.empty() ? 0 : blocks[current].used}; }

  /// Whether this place was allocated since the mark.
  bool allocated_since(Mark mark, const void* place) const {
    const auto* at = static_cast<const std::byte*>(place);
    for (std::size_t b = mark.block; b < blocks.size(); ++b)
      if (at >= blocks[b].data + (b == mark.block ? mark.used : 0) && at < blocks[b].data + blocks[b].used) return true;
    return false;
  }
  /// Takes back what was allocated since the mark.
  void rewind(Mark to) {
    for (std::size_t b = to.block + 1; b < blocks.size(); ++b) blocks[b].used = 0;
    current = to.block;
    if (!blocks.empty()) blocks[current].used = to.used;
    live = 0;
    for (std::size_t b = 0; b < blocks.size() && b <= current; ++b) live += blocks[b].used;
  }

  /// Takes everything back; where several blocks had to be opened, they become one of what was used at most.
  void reset() {
    if (blocks.size() > 1) {
      release();
      open(most);
    }
    rewind({0, 0});
  }

  /// For tests: what is not handed out yet becomes NaN, so that reading before writing shows.
  void poison() {
    for (const Block& b : blocks) std::memset(b.data + b.used, 0xff, b.size - b.used);
  }

  std::size_t capacity() const {
    std::size_t total = 0;
    for (const Block& b : blocks) total += b.size;
    return total;
  }

 private:
  struct Block {
    std::byte* data;
    std::size_t size, used;
  };

  [[gnu::cold]] void open(std::size_t bytes) {
    blocks.push_back({static_cast<std::byte*>(::operator new(bytes, std::align_val_t(alignment))), bytes, 0});
  }
  void release() {
    for (const Block& b : blocks) ::operator delete(b.data, std::align_val_t(alignment));
    blocks.clear();
    current = 0;
  }

  static constexpr std::size_t smallest = std::size_t(1) << 20;
  std::vector<Block> blocks;
  std::size_t current = 0;
  std::size_t live = 0, most = 0;  ///< bytes handed out now, and at any time
};

}  // namespace vaelib::inline VAELIB_ABI
