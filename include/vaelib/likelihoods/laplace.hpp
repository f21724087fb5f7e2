// Laplace likelihood with one scale for all features; the decoder gives the mean.
//
//   -log p(x | mean) = |x - mean| / scale + log(2 scale)      nats, for each feature
//
//   Laplace{.scale = 1}   the scale is given: the absolute error up to a constant and a factor
//   LearnedLaplace        log scale is a parameter
//
// It counts large errors less than a Gaussian does; where x is the mean, the gradient is zero.
#pragma once

#include <vaelib/autodiff/operations.hpp>

namespace vaelib::inline VAELIB_ABI {

struct AbsoluteDifference {
  VAELIB_HD constexpr auto operator()(auto mean, auto target) const { return abs(mean - target); }
};
/// The likelihood of a whole row of `features` numbers, from its absolute error.
struct LaplaceRowNll {
  float features;
  VAELIB_HD constexpr auto operator()(auto absolute_error, auto log_scale) const {
    return absolute_error * exp(-log_scale) + features * (log_scale + 0.69314718055994530942);
  }
};

/// Summed over the features of each row: rows x 1.
template <class S, class V, class T>
auto absolute_error(S& step, V mean, T target) {
  return map_reduce(step, AbsoluteDifference{}, mean, fixed(target));
}

struct Laplace {
  static constexpr const char* name = "laplace";
  static constexpr float smallest = -3.0e38f, largest = 3.0e38f;  ///< support of the targets: finite numbers
  static constexpr bool sigmoid_mean = false;
  float scale = 1;

  struct Nll {
    float features, scale;
    VAELIB_HD constexpr auto operator()(auto absolute_error) const { return absolute_error * (1 / scale) + features * log(2 * scale); }
  };
  template <class S, class V, class T>
  auto nll(S& step, V output, T target) const {
    if (!(scale > 0)) fail("vaelib: a Laplace likelihood wants a scale > 0, found ", scale);
    return map_few(step, Nll{float(output.features()), scale}, absolute_error(step, output, target));
  }
  template <class S, class V>
  static V mean(S&, V output) {
    return output;
  }
};

struct LearnedLaplace {
  static constexpr const char* name = "learned-laplace";
  static constexpr float smallest = -3.0e38f, largest = 3.0e38f;  ///< support of the targets: finite numbers
  static constexpr bool sigmoid_mean = false;
  Parameter log_scale{};

  [[gnu::cold]] void build() { log_scale = {{1}, constant(0)}; }
  void fields(auto&& f) { f("log_scale", log_scale); }

  template <class S, class V, class T>
  auto nll(S& step, V output, T target) const {
    return map(step, LaplaceRowNll{float(output.features())}, absolute_error(step, output, target), log_scale);
  }
  template <class S, class V>
  static V mean(S&, V output) {
    return output;
  }
};

}  // namespace vaelib::inline VAELIB_ABI
