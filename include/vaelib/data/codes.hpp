// Codes: grids of whole numbers from 0 to count - 1, those of a quantized autoencoder, as a data set for a prior.
#pragma once

#include <vaelib/data/dataset.hpp>

#include <algorithm>

namespace vaelib::inline VAELIB_ABI {
namespace data {

/// `codes`: rows x height x width, all from 0 to `count` - 1. A trainer is given them as floats.
class Codes {
 public:
  Codes() = default;
  [[gnu::cold]] Codes(Shape grid, std::vector<std::int32_t> codes, int count)
      : grid_(grid), size_(detail::count_rows(codes.size(), grid)), codes_(std::move(codes)) {
    for (std::size_t i = 0; i < codes_.size(); ++i)
      if (codes_[i] < 0 || codes_[i] >= count)
        fail("data set: row ", i / grid_.size(), " has the code ", codes_[i], " at position ", i % grid_.size(),
             ", expected 0 to ", count - 1);
  }

  std::int64_t size() const { return size_; }
  Shape shape() const { return grid_; }
  int classes() const { return 0; }
  const std::vector<std::int32_t>& codes() const { return codes_; }

  void fill(std::uint64_t /*epoch*/, std::span<const std::uint32_t> rows, float* features,
            std::int32_t* /*labels*/) const {
    const std::size_t positions = grid_.size();
    detail::check_rows(rows, size_);
    for (std::size_t i = 0; i < rows.size(); ++i)
      std::copy_n(codes_.data() + rows[i] * positions, positions, features + i * positions);
  }

 private:
  Shape grid_{1};
  std::int64_t size_ = 0;
  std::vector<std::int32_t> codes_;
};

}  // namespace data
}  // namespace vaelib::inline VAELIB_ABI
