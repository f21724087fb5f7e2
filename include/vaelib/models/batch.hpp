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
  const long* offsets = nullptr;         ///< where samples are sets: sample s has the points offsets[s] .. offsets[s + 1] - 1, each of `shape`
  long first_point = 0;                  ///< position of the first point in the global batch

  /// `n` samples from `begin` on. Of sets the offsets stay those of the whole, which the step takes apart.
  Batch part(long begin, long n) const {
    const long skipped = offsets ? offsets[begin] - offsets[0] : begin;
    return {n, shape, features + skipped * shape.size(), labels ? labels + begin : nullptr, first + begin, nullptr, offsets ? offsets + begin : nullptr, first_point + skipped};
  }
};

/// The samples as a variable; S is the static shape that the model takes.
template <Shape S, class Step, class Real>
auto input(Step& step, const Batch<Real>& batch) {
  if (batch.offsets) fail("vaelib: this model takes rows of one length, the data has sets");
  return step.template constant<S>(batch.space, batch.shape, batch.features);
}

/// The points of all sets of a batch, one after another; S is the static shape of a point.
template <Shape S, class Step, class Real>
auto points_of(Step& step, const Batch<Real>& batch) {
  if (!batch.offsets) fail("vaelib: this model takes sets, the data has rows of one length; wrap them as a data::SetSource");
  const long* offsets = batch.offsets;
  if (offsets[0] != 0) {
    long* const own = step.arena.template allocate<long>(std::size_t(batch.count) + 1);
    for (long s = 0; s <= batch.count; ++s) own[s] = offsets[s] - offsets[0];
    offsets = own;
  }
  return step.template constant<S>(step.ragged(batch.count, offsets, batch.first_point), batch.shape, batch.features);
}

template <class Real>
const std::int32_t* labels_of(const Batch<Real>& batch) {
  if (!batch.labels) fail("vaelib: this model wants labels, and the data has none");
  return batch.labels;
}

}  // namespace vaelib::inline VAELIB_ABI
