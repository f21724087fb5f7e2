// Activations: plain functors of one number. The vectorised loop, the device code and the gradient are derived from them.
//
// A functor that also gives its slope as a function of its output is applied in the last pass of the layer before it, for
// then the input need not be kept.
#pragma once

#include <vaelib/core/functors.hpp>
#include <vaelib/core/math.hpp>

namespace vaelib::inline VAELIB_ABI {

/// max(x, 0)
struct ReLU {
  VAELIB_HD constexpr auto operator()(auto x) const { return select(x > 0.0f, x, decltype(x)(0.0f)); }
  VAELIB_HD constexpr auto slope_from_output(auto y) const {
    using T = decltype(y);
    return select(y > 0.0f, T(1.0f), T(0.0f));
  }
};

/// x where x > 0, slope * x elsewhere; slope > 0
struct LeakyReLU {
  float slope = 0.01f;
  VAELIB_HD constexpr auto operator()(auto x) const { return select(x > 0.0f, x, x * slope); }
  VAELIB_HD constexpr auto slope_from_output(auto y) const {
    using T = decltype(y);
    return select(y > 0.0f, T(1.0f), T(slope));
  }
};

/// x where x > 0, alpha (exp(x) - 1) elsewhere; alpha > 0 (Clevert et al. 2015)
struct ELU {
  float alpha = 1;
  VAELIB_HD constexpr auto operator()(auto x) const { return select(x > 0.0f, x, alpha * expm1(x)); }
  VAELIB_HD constexpr auto slope_from_output(auto y) const {
    using T = decltype(y);
    return select(y > 0.0f, T(1.0f), y + alpha);
  }
};

/// x Phi(x) with the normal distribution function Phi (Hendrycks & Gimpel 2016); the exact form, by erf
struct GELU {
  VAELIB_HD constexpr auto operator()(auto x) const { return x * 0.5f * (erf(x * 0.70710678118654752) + 1.0f); }
};

/// x sigmoid(x), also known as Swish (Elfwing et al. 2017)
struct SiLU {
  VAELIB_HD constexpr auto operator()(auto x) const { return x * sigmoid(x); }
};

struct Tanh {
  VAELIB_HD constexpr auto operator()(auto x) const { return tanh(x); }
  VAELIB_HD constexpr auto slope_from_output(auto y) const { return decltype(y)(1.0f) - y * y; }
};

/// 1 / (1 + exp(-x))
struct Sigmoid {
  VAELIB_HD constexpr auto operator()(auto x) const { return sigmoid(x); }
  VAELIB_HD constexpr auto slope_from_output(auto y) const { return y * (decltype(y)(1.0f) - y); }
};

/// log(1 + exp(x))
struct Softplus {
  VAELIB_HD constexpr auto operator()(auto x) const { return softplus(x); }
  VAELIB_HD constexpr auto slope_from_output(auto y) const { return -expm1(-y); }
};

}  // namespace vaelib::inline VAELIB_ABI
