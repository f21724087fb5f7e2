// Some rows of a data set, and the parting of one into training and test rows.
#pragma once

#include <vaelib/core/random.hpp>
#include <vaelib/data/dataset.hpp>

#include <algorithm>

namespace vaelib::inline VAELIB_ABI {
namespace data {

/// Rows of another data set by their numbers. Looks at it: it has to outlive the subset.
template <Source T>
class Subset {
 public:
  Subset(const T& source, std::vector<std::uint32_t> rows) : source_(&source), rows_(std::move(rows)) { detail::check_rows(rows_, source.size()); }

  std::int64_t size() const { return static_cast<std::int64_t>(rows_.size()); }
  Shape shape() const { return source_->shape(); }
  int classes() const { return source_->classes(); }
  std::span<const std::uint32_t> rows() const { return rows_; }
  void fill(std::uint64_t epoch, std::span<const std::uint32_t> rows, float* features, std::int32_t* labels) const {
    detail::check_rows(rows, size());
    const auto features_of_row = shape().size();
    std::array<std::uint32_t, 64> chosen;
    for (std::size_t first = 0; first < rows.size(); first += chosen.size()) {
      const std::size_t count = std::min(chosen.size(), rows.size() - first);
      for (std::size_t i = 0; i < count; ++i) chosen[i] = rows_[rows[first + i]];
      source_->fill(epoch, {chosen.data(), count}, features + static_cast<std::int64_t>(first) * features_of_row, labels ? labels + first : nullptr);
    }
  }

 private:
  const T* source_;
  std::vector<std::uint32_t> rows_;
};

/// Training and test rows, in the order they have in the data set.
struct SplitRows {
  std::vector<std::uint32_t> train, test;
};

/// A share of the rows, drawn by the seed, for testing: at least one row for each part.
inline SplitRows split_rows(std::int64_t size, double test_share, std::uint64_t seed) {
  if (size < 2 || size > UINT32_MAX) fail("data set: ", size, " rows cannot be parted, expected 2 to ", UINT32_MAX);
  if (!(test_share > 0 && test_share < 1)) fail("data set: a test share of ", test_share, ", expected more than 0 and less than 1");
  constexpr std::uint32_t stream = 253;  // of the split's own random numbers
  std::vector<std::uint32_t> order(static_cast<std::size_t>(size));
  permutation(RandomKey{.seed = seed, .stream = stream}, order);
  const auto tests = std::clamp<std::int64_t>(static_cast<std::int64_t>(static_cast<double>(size) * test_share + 0.5), 1, size - 1);
  SplitRows result{{order.begin() + tests, order.end()}, {order.begin(), order.begin() + tests}};
  std::sort(result.train.begin(), result.train.end());
  std::sort(result.test.begin(), result.test.end());
  return result;
}

}  // namespace data
}  // namespace vaelib::inline VAELIB_ABI
