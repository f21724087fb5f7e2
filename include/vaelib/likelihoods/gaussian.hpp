// Gaussian likelihood with one standard deviation for all features; the decoder gives the mean.
//
//   -log p(x | mean) = 1/2 ((x - mean) / sigma)^2 + log sigma + 1/2 log(2 pi)      nats, for each feature
//
//   FixedGaussian{sigma}   sigma is given. sigma^2 = 1/2 is the squared error up to a constant.
//   LearnedGaussian        log sigma is a parameter.
//   OptimalGaussian        sigma^2 is the mean squared error of the batch, which is the best value in closed form, and
//                          takes part in the gradient: sigma-VAE, Rybkin et al. 2021, section 3.2.
#pragma once

#include <vaelib/autodiff/operations.hpp>

namespace vaelib::inline VAELIB_ABI {

VAELIB_HD constexpr double half_log_two_pi() { return 0.91893853320467274178; }

struct SquaredDifference {
  VAELIB_HD constexpr auto operator()(auto mean, auto target) const { return square(mean - target); }
};
/// The likelihood of a whole row of `features` numbers, from its squared error.
struct GaussianRowNll {
  float features;
  VAELIB_HD constexpr auto operator()(auto squared_error, auto log_sigma) const {
    return 0.5f * squared_error * exp(-2.0f * log_sigma) + features * (log_sigma + half_log_two_pi());
  }
};
struct OptimalNll {
  float features;
  VAELIB_HD constexpr auto operator()(auto mean_squared_error) const {
    return features * (0.5f * log(mean_squared_error) + (0.5 + half_log_two_pi()));
  }
};

struct GaussianLikelihood {
  static constexpr float smallest = -3.0e38f, largest = 3.0e38f;  ///< support of the targets: finite numbers
  static constexpr bool sigmoid_mean = false;

  template <class S, class V, class T>
  static auto squared_error(S& step, V mean, T target) {
    return map_reduce(step, SquaredDifference{}, mean, fixed(target));
  }
  template <class S, class V>
  static V mean(S&, V output) {
    return output;
  }
};

struct FixedGaussian : GaussianLikelihood {
  static constexpr const char* name = "gaussian";
  float sigma = 0.70710678f;

  struct Nll {
    float features, sigma;
    VAELIB_HD constexpr auto operator()(auto squared_error) const {
      return squared_error * (0.5f / (sigma * sigma)) + features * (log(sigma) + half_log_two_pi());
    }
  };
  template <class S, class V, class T>
  auto nll(S& step, V output, T target) const {
    if (!(sigma > 0)) fail("vaelib: a Gaussian likelihood wants sigma > 0, found ", sigma);
    return map_few(step, Nll{float(output.features()), sigma}, squared_error(step, output, target));
  }
};

struct LearnedGaussian : GaussianLikelihood {
  static constexpr const char* name = "learned-gaussian";
  Parameter log_sigma{};

  [[gnu::cold]] void build() { log_sigma = {{1}, constant(0)}; }
  void fields(auto&& f) { f("log_sigma", log_sigma); }

  template <class S, class V, class T>
  auto nll(S& step, V output, T target) const {
    return map(step, GaussianRowNll{float(output.features())}, squared_error(step, output, target), log_sigma);
  }
};

struct OptimalGaussian : GaussianLikelihood {
  static constexpr const char* name = "optimal-gaussian";
  float smallest_variance = 1e-6f;  ///< below it the variance stands still, so that a perfect fit stays finite

  /// The same number of nats for the whole batch: one row.
  template <class S, class V, class T>
  auto nll(S& step, V output, T target) const {
    const float features = float(output.features());
    const auto error = mean_rows(step, squared_error(step, output, target));
    return map_few(step, Nll{features, smallest_variance}, error);
  }
  struct Nll {
    float features, smallest;
    VAELIB_HD constexpr auto operator()(auto squared_error) const {
      using T = decltype(squared_error);
      return OptimalNll{features}(max(squared_error * (1 / features), T(smallest)));
    }
  };
};

}  // namespace vaelib::inline VAELIB_ABI
