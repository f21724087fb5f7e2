// Going back: the last weights, state, moments and counts that gave finite numbers, kept in memory.
//
//   FitOptions{.non_finite = NonFinite::roll_back, .roll_back = {.every = 100, .most = 5}}
//
// A snapshot is taken in a step whose loss and gradients are finite, before it changes anything. When a later step's are not,
// everything goes back to it but the position: the run goes on with the next batch. A run takes one with each checkpoint, too,
// so that a resumed one goes back to the same weights.
#pragma once

#include <vaelib/core/buffer.hpp>
#include <vaelib/train/run_state.hpp>

#include <cstring>

namespace vaelib::inline VAELIB_ABI {

struct RollBack {
  std::int64_t every = 100;  ///< steps between snapshots
  std::int64_t most = 5;     ///< so often one snapshot is gone back to; after that the run stops
};

class Snapshot {
 public:
  bool is_due(std::uint64_t step, const RollBack& options) const { return bytes.size() == 0 || std::int64_t(step - taken_at) >= options.every; }

  /// Takes memory once: the numbers of a learner do not become more.
  [[gnu::cold]] void keep(const LearnerMemory& memory, std::uint64_t step) {
    long size = 0;
    for_each_part(memory, [&](const void*, std::size_t count) { size += long(count); });
    if (bytes.size() != size) bytes.resize(size);
    unsigned char* place = bytes.data();
    for_each_part(memory, [&](const void* part, std::size_t count) {
      if (count > 0) std::memcpy(place, part, count);
      place += count;
    });
    taken_at = step;
    uses = 0;
  }
  /// Nothing where there is no snapshot yet: then no step has changed anything.
  [[gnu::cold]] void give_back(const LearnerMemory& memory) {
    ++uses;
    if (bytes.size() == 0) return;
    const unsigned char* place = bytes.data();
    for_each_part(memory, [&](void* part, std::size_t count) {
      if (count > 0) std::memcpy(part, place, count);
      place += count;
    });
  }
  std::int64_t times_used() const { return uses; }

 private:
  /// f(first byte, count of bytes)
  static void for_each_part(const LearnerMemory& memory, auto&& f) {
    const auto part = [&](const LearnerMemory::Part& p) { f(p.data, std::size_t(p.count) * dtype_size(memory.dtype)); };
    part(memory.values);
    part(memory.state);
    part(memory.average);
    for (int k = 0; k < memory.phases * memory.moments_of_phase; ++k) part(memory.moments[k]);
    f(memory.updates, memory.phases * sizeof(std::int64_t));
  }

  Buffer<unsigned char> bytes;
  std::uint64_t taken_at = 0;
  std::int64_t uses = 0;
};

}  // namespace vaelib::inline VAELIB_ABI
