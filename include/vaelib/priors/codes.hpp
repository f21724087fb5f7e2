// What all priors over codes share. A sample is a grid of height x width codes, whole numbers from 0 to K - 1, which a
// batch has as floats: these hold whole numbers below 2^24 exactly.
#pragma once

#include <vaelib/autodiff/operations.hpp>
#include <vaelib/likelihoods/categorical.hpp>

#include <cmath>
#include <cstdint>
#include <vector>

namespace vaelib::inline VAELIB_ABI {

/// The codes of a batch as integers, in memory of the step.
template <class S, class B>
const std::int32_t* codes_of(S& step, const B& batch, Shape grid, int codes) {
  if (batch.shape != grid)
    fail("vaelib: the prior takes codes of shape ", text_of(grid), ", found ", text_of(batch.shape));
  const long positions = grid.size();
  auto* result = step.arena.template allocate<std::int32_t>(batch.count * positions);
  for (long i = 0; i < batch.count * positions; ++i) {
    const auto value = batch.features[i];
    if (!(value >= 0 && value < codes && value == std::floor(value)))
      fail("vaelib: row ", batch.first + i / positions, " has the code ", value, " at position ", i % positions,
           ", expected a whole number from 0 to ", codes - 1);
    result[i] = std::int32_t(value);
  }
  return result;
}

/// A negative log-likelihood in nats a sample as bits a code.
inline double bits_per_code(double nats, Shape grid) { return nats / (grid.size() * std::log(2.0)); }

namespace detail {

inline void check_prior(Shape grid, int codes) {
  if (grid.height < 1 || grid.width < 1 || grid.channels != 1)
    fail("vaelib: a prior takes a grid of height x width x 1 codes, found ", text_of(grid));
  if (codes < 1 || codes > 1 << 24) fail("vaelib: a prior over ", codes, " codes, expected 1 to ", 1 << 24);
}

/// As many blocks as a model was told at run time, numbered in files.
template <class Block>
struct Stack {
  std::vector<Block> blocks{};
  void fields(auto&& f) {
    for (std::size_t i = 0; i < blocks.size(); ++i) f(int(i), blocks[i]);
  }
};

}  // namespace detail
}  // namespace vaelib::inline VAELIB_ABI
