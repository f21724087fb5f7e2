// Batch normalisation over the rows (and pixels) of a batch, channel by channel; Ioffe & Szegedy 2015.
//
//   y = (x - mean) / sqrt(var + epsilon) * weight + bias
//
// In training mean and variance (divided by n) are those of the batch, and the running ones move towards them by
// `momentum`, with the variance divided by n - 1, as in PyTorch; in evaluation the running ones are used. The moved
// statistics are proposed, and become state when the step is accepted.
#pragma once

#include <vaelib/layers/sequential.hpp>

namespace vaelib::inline VAELIB_ABI {

template <class S, class R, Shape A>
Var<R, A> batch_norm(S& step, Var<R, A> x, const Parameter& weight, const Parameter& bias, const State& mean, const State& variance,
                     const State& count, float momentum, float epsilon) {
  const int channels = int(weight.size());
  const long rows = channels == 0 ? 0 : x.size() / channels;
  auto y = step.template variable<A>(x.space(), x.shape, step.needs_gradient(x, weight, bias));
  const bool of_batch = step.training();
  const R *old_mean = step.value(mean), *old_variance = step.value(variance), *old_count = step.value(count);
  const R *used_mean = old_mean, *used_variance = old_variance;
  if (of_batch) {
    if (rows < 2) fail("vaelib: BatchNorm wants more than one value a channel in training, found ", rows);
    R* statistics = step.arena.template allocate<R>(2 * channels);  // mean, variance
    step.backend.column_statistics(rows, channels, x.value(), statistics, statistics + channels);
    if (R* moved = step.propose(mean)) step.backend.move(channels, old_mean, statistics, R(momentum), R(1), moved);
    if (R* moved = step.propose(variance)) step.backend.move(channels, old_variance, statistics + channels, R(momentum), R(rows) / R(rows - 1), moved);
    if (R* moved = step.propose(count)) *moved = *old_count + 1;
    used_mean = statistics;
    used_variance = statistics + channels;
  }
  step.backend.normalise(rows, channels, x.value(), used_mean, used_variance, R(epsilon), step.value(weight), step.value(bias), y.value());
  if (y.needs_gradient())
    step.record({y.node}, [=](S& s) {
      s.backend.normalise_gradient(rows, channels, of_batch, x.value(), used_mean, used_variance, R(epsilon), s.value(weight), s.gradient(y),
                                   s.target(x), s.target(weight), s.target(bias));
    });
  return y;
}

struct BatchNorm {
  float momentum = 0.1f, epsilon = 1e-5f;
  Parameter weight{}, bias{};
  State running_mean{}, running_var{}, num_batches_tracked{};

  static constexpr bool keeps_features = true;
  static constexpr Shape output(Shape in) { return in; }
  [[gnu::cold]] void build(Shape in) {
    weight = {{in.channels}, constant(1)};
    bias = {{in.channels}, constant(0)};
    running_mean = {in.channels, 0};
    running_var = {in.channels, 1};
    num_batches_tracked = {1, 0, true};
  }
  void fields(auto&& f) {
    f("weight", weight);
    f("bias", bias);
    f("running_mean", running_mean);
    f("running_var", running_var);
    f("num_batches_tracked", num_batches_tracked);
  }
  template <class S, class V>
  V forward(S& step, V x) const {
    return batch_norm(step, x, weight, bias, running_mean, running_var, num_batches_tracked, momentum, epsilon);
  }
};

}  // namespace vaelib::inline VAELIB_ABI
