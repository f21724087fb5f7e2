// The batches of an epoch: every row once, in an order keyed by (seed, epoch), or 0, 1, 2 ... without shuffling.
// The order depends on nothing else, so that a run goes on in mid-epoch where it stopped.
#pragma once

#include <vaelib/core/error.hpp>
#include <vaelib/core/random.hpp>

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <span>
#include <vector>

namespace vaelib::inline VAELIB_ABI {
namespace data {

class Batches {
 public:
  [[gnu::cold]] Batches(std::int64_t rows, std::int64_t batch_size, bool shuffled = false, std::uint64_t seed = 0)
      : batch_size_(batch_size), shuffled_(shuffled), seed_(seed) {
    if (rows < 1 || rows > UINT32_MAX) fail("batches: a data set of ", rows, " rows, expected 1 to ", UINT32_MAX);
    if (batch_size < 1) fail("batches: the batch size is ", batch_size, ", expected at least 1");
    order_.resize(static_cast<std::size_t>(rows));
    start(0);
  }

  /// Puts the rows into the order of this epoch; takes no memory.
  void start(std::uint64_t epoch) {
    if (shuffled_)
      permutation(RandomKey{.seed = seed_, .step = epoch, .stream = stream}, order_);
    else
      std::iota(order_.begin(), order_.end(), 0u);
  }

  /// Batches in an epoch; the last one holds what is left.
  std::int64_t count() const { return (rows() + batch_size_ - 1) / batch_size_; }
  std::int64_t rows() const { return static_cast<std::int64_t>(order_.size()); }

  std::span<const std::uint32_t> operator[](std::int64_t batch) const {
    if (batch < 0 || batch >= count()) fail("batches: batch ", batch, " was asked for, there are ", count());
    const auto begin = batch * batch_size_, end = std::min(begin + batch_size_, rows());
    return std::span(order_).subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(end - begin));
  }

 private:
  static constexpr std::uint32_t stream = 255;  // of the order's own random numbers

  std::int64_t batch_size_;
  bool shuffled_;
  std::uint64_t seed_;
  std::vector<std::uint32_t> order_;
};

}  // namespace data
}  // namespace vaelib::inline VAELIB_ABI
