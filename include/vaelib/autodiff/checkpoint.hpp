// Checkpointing: a block whose inner values are forgotten and computed again in the backward pass; Chen et al. 2016.
//
// The recomputation draws the same random numbers and proposes no state, so that the gradients are those of the plain block.
#pragma once

#include <vaelib/autodiff/step.hpp>

#include <algorithm>

namespace vaelib::inline VAELIB_ABI {

/// block(step, x), which may read x and parameters but no other variables, and must outlive the step.
template <class S, class Block, class V>
auto checkpoint(S& step, const Block& block, V x) {
  using Real = typename S::Real;
  const RandomKey key = step.key;
  const bool recording = step.recording;
  const auto before = step.position();
  step.recording = false;
  const auto inner = block(step, x);
  step.recording = recording;
  using Out = std::remove_const_t<decltype(inner)>;

  // the result moves to where the inner values were
  const RowSpace* space = inner.space();
  const Real* values = inner.value();
  const Shape shape = inner.shape;
  const auto copy = step.scratch(inner.size());
  std::copy_n(values, inner.size(), copy.data);
  step.forget(before);
  auto y = step.template variable<Out::static_shape>(space, shape, recording);
  std::copy_n(copy.data, y.size(), y.value());

  if (recording)
    step.record({y.node}, [=, &block](S& s) {
      if (x.needs_gradient()) s.reserve_gradient(x.node);  // it must outlive the memory of the recomputation
      s.recompute(key, y.node, [&](S& again) { return block(again, x).node; });
    });
  return y;
}

}  // namespace vaelib::inline VAELIB_ABI
