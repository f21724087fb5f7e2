// Layer normalisation over the features of each row; Ba et al. 2016.
//
//   y = (x - mean) / sqrt(var + epsilon) * weight + bias      mean, var (divided by n): of the row
//
// Over all features of a sample, spatial ones included; weight and bias have one number a feature.
#pragma once

#include <vaelib/layers/sequential.hpp>

namespace vaelib::inline VAELIB_ABI {

template <class S, class R, Shape A>
Var<R, A> layer_norm(S& step, Var<R, A> x, const Parameter& weight, const Parameter& bias, float epsilon) {
  const long rows = x.rows(), features = x.features();
  auto y = step.template variable<A>(x.space(), x.shape, step.needs_gradient(x, weight, bias));
  R* statistics = step.arena.template allocate<R>(2 * rows);  // of each row: mean, 1 / sqrt(var + epsilon)
  step.backend.layer_norm(rows, features, x.value(), R(epsilon), step.value(weight), step.value(bias), statistics, y.value());
  if (y.needs_gradient())
    step.record({y.node}, [=](S& s) {
      s.backend.layer_norm_gradient(rows, features, x.value(), statistics, s.value(weight), s.gradient(y), s.target(x), s.target(weight), s.target(bias));
    });
  return y;
}

struct LayerNorm {
  float epsilon = 1e-5f;
  Parameter weight{}, bias{};

  static constexpr bool keeps_features = true;
  static constexpr Shape output(Shape in) { return in; }
  [[gnu::cold]] void build(Shape in) {
    if (in.is_flat()) {
      weight = {{in.channels}, constant(1)};
      bias = {{in.channels}, constant(0)};
    } else {
      weight = {{in.height, in.width, in.channels}, constant(1), Layout::image};
      bias = {{in.height, in.width, in.channels}, constant(0), Layout::image};
    }
  }
  void fields(auto&& f) {
    f("weight", weight);
    f("bias", bias);
  }
  template <class S, class V>
  V forward(S& step, V x) const {
    return layer_norm(step, x, weight, bias, epsilon);
  }
};

}  // namespace vaelib::inline VAELIB_ABI
