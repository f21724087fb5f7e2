// What a model is given in a step: the samples of a batch.
#pragma once

#include <vaelib/autodiff/step.hpp>

#include <cstdint>

namespace vaelib::inline VAELIB_ABI {

template <class Real>
struct Batch {
  long count = 0;                        ///< samples
  Shape shape{1};                        ///< of one sample
  const Real* features = nullptr;        ///< count x shape, row-major, channels last
  const std::int32_t* labels = nullptr;  ///< one a sample, or null
  long first = 0;                        ///< position of the first sample in the global batch
  const RowSpace* space = nullptr;       ///< one row a sample; given by the step

  /// `n` samples from `begin` on.
  Batch part(long begin, long n) const {
    return {n, shape, features + begin * shape.size(), labels ? labels + begin : nullptr, first + begin, nullptr};
  }
};

/// The samples as a variable; S is the static shape that the model takes.
template <Shape S, class Step, class Real>
auto input(Step& step, const Batch<Real>& batch) {
  return step.template constant<S>(batch.space, batch.shape, batch.features);
}

template <class Real>
const std::int32_t* labels_of(const Batch<Real>& batch) {
  if (!batch.labels) fail("vaelib: this model wants labels, and the data has none");
  return batch.labels;
}

}  // namespace vaelib::inline VAELIB_ABI
