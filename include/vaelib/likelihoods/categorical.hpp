// Categorical likelihood of logits: one of several codes at each position of a sample.
//
//   -log p(code | logits) = log sum_k exp(logit[k]) - logit[code]      nats, summed over the positions of a row
//
// logits: rows x (positions x codes), the codes last. The largest logit is taken out before exp, so that nothing
// overflows; neither a softmax nor a vector of ones and zeros is kept.
#pragma once

#include <vaelib/autodiff/operations.hpp>

#include <cstdint>

namespace vaelib::inline VAELIB_ABI {

/// rows x 1, nats. targets: one code for each position of each row, from 0 to the channels of the logits less one; kept
/// alive by the caller until the step is over.
template <class S, class R, Shape A>
Var<R, Shape{1}> categorical_nll(S& step, Var<R, A> logits, const std::int32_t* targets) {
  const long rows = logits.rows(), positions = logits.features() / logits.shape.channels;
  const int codes = logits.shape.channels;
  for (long p = 0; p < rows * positions; ++p)
    if (targets[p] < 0 || targets[p] >= codes)
      fail("vaelib: row ", logits.space()->first + p / positions, " has the code ", targets[p], " at position ",
           p % positions, ", expected 0 to ", codes - 1);
  R* log_sums = step.arena.template allocate<R>(rows * positions);
  auto y = step.template variable<Shape{1}>(logits.space(), Shape{1}, step.needs_gradient(logits));
  step.backend.categorical_nll(rows, positions, codes, logits.value(), targets, log_sums, y.value());
  if (y.needs_gradient())
    step.record({y.node}, [=](S& s) {
      if (auto t = s.target(logits))
        s.backend.categorical_nll_gradient(rows, positions, codes, logits.value(), targets, log_sums, s.gradient(y), t);
    });
  return y;
}

/// What a trainer is told of data that are codes; they come as whole numbers in floats.
struct Categorical {
  float smallest = 0, largest = 0;  ///< the first and the last code

  template <class S, class V>
  static auto nll(S& step, V logits, const std::int32_t* targets) {
    return categorical_nll(step, logits, targets);
  }
};

}  // namespace vaelib::inline VAELIB_ABI
