// Dropout: in training each feature is zero with probability p, the others are divided by 1 - p; Srivastava et al. 2014.
#pragma once

#include <vaelib/autodiff/operations.hpp>
#include <vaelib/layers/sequential.hpp>

namespace vaelib::inline VAELIB_ABI {

struct KeepOrDrop {
  float probability;
  VAELIB_HD constexpr auto operator()(auto x, auto uniform) const {
    return x * select(uniform < probability, decltype(uniform)(0.0f), decltype(uniform)(1 / (1 - probability)));
  }
};

struct Dropout {
  float probability = 0.5f;
  static constexpr bool keeps_features = true;
  static constexpr Shape output(Shape in) { return in; }
  [[gnu::cold]] void build(Shape) {
    if (!(probability >= 0 && probability < 1)) fail("vaelib: Dropout wants a probability in [0, 1), found ", probability);
  }
  template <class S, class V>
  V forward(S& step, V x) const {
    if (!step.training() || probability == 0) return x;
    auto uniform = step.template variable<V::static_shape>(x.space(), x.shape, false);
    step.backend.uniform(step.next_key(), x.space()->first, x.rows(), int(x.features()), uniform.value());
    return map(step, KeepOrDrop{probability}, x, fixed(uniform));
  }
};

}  // namespace vaelib::inline VAELIB_ABI
