// Checkpointing: a block whose inner values are forgotten and computed again in the backward pass; Chen et al. 2016.
//
// The recomputation draws the same random numbers and proposes no state, so that the gradients are those of the plain block.
#pragma once

#include <vaelib/autodiff/step.hpp>

#include <algorithm>
#include <vector>

namespace vaelib::inline VAELIB_ABI {

namespace detail {
template <class S, class Block, class V>
auto pass(S& step, const Block& block, V x) {
  if constexpr (requires { block.forward(step, x); }) {
    return block.forward(step, x);
  } else {
    return block(step, x);
  }
}
}  // namespace detail

/// block(step, x) or, of a layer, block.forward(step, x), which may read x and parameters but no other variables, and must outlive the step.
template <class S, class Block, class V>
auto checkpoint(S& step, const Block& block, V x) {
  using Real = typename S::Real;
  const RandomKey key = step.key;
  const bool recording = step.recording;
  const auto before = step.position();
  step.recording = false;
  const auto inner = detail::pass(step, block, x);
  step.recording = recording;
  using Out = std::remove_const_t<decltype(inner)>;

  // the result moves to where the inner values were, and its row space, if the block made it (a pooling)
  const RowSpace* space = inner.space();
  const Real* values = inner.value();
  const Shape shape = inner.shape;
  const bool own_space = step.arena.allocated_since(before.mark, space);
  const RowSpace rows = *space;
  std::vector<long> offsets(rows.offsets, rows.offsets + (own_space && rows.offsets ? rows.groups + 1 : 0));
  const auto copy = step.scratch(inner.size());
  std::copy_n(values, inner.size(), copy.data);
  step.forget(before);
  if (own_space && rows.offsets) {
    long* const kept = step.arena.template allocate<long>(offsets.size());
    std::copy(offsets.begin(), offsets.end(), kept);
    space = step.ragged(rows.groups, kept, rows.first, rows.each);
  } else if (own_space) {
    space = step.rows(rows.count, rows.first);
  }
  auto y = step.template variable<Out::static_shape>(space, shape, recording);
  std::copy_n(copy.data, y.size(), y.value());

  if (recording)
    step.record({y.node}, [=, &block](S& s) {
      if (x.needs_gradient()) s.reserve_gradient(x.node);  // it must outlive the memory of the recomputation
      s.recompute(key, y.node, [&](S& again) { return detail::pass(again, block, x).node; });
    });
  return y;
}

}  // namespace vaelib::inline VAELIB_ABI
