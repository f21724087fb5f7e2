// Continuous Bernoulli likelihood of logits, a normalised density of targets in [0, 1]; Loaiza-Ganem & Cunningham 2019.
//
//   -log p(x | logit) = softplus(logit) - logit x - log C = log((exp(logit) - 1) / logit) - logit x      nats, for each feature
//   C = 2 artanh(1 - 2 lambda) / (1 - 2 lambda) = logit / tanh(logit / 2)      lambda = sigmoid(logit)
//   mean = lambda / (2 lambda - 1) + 1 / (2 artanh(1 - 2 lambda)) = 1/2 + coth(logit / 2) / 2 - 1 / logit
//
// It is a density, so that nats may be negative. Written in the logit, with the normaliser in one term, nothing overflows or
// cancels; near 0, where numerators and denominators vanish together, series take their place.
#pragma once

#include <vaelib/autodiff/operations.hpp>

namespace vaelib::inline VAELIB_ABI {

struct ContinuousBernoulliNll {
  VAELIB_HD constexpr auto operator()(auto logit, auto target) const {
    const auto size = abs(logit), v = square(logit);
    // log(sinh(logit / 2) / (logit / 2)) to logit^10: within 1e-10 where |logit| < 1
    const auto series = v * (1.0 / 24 + v * (-1.0 / 2880 + v * (1.0 / 181440 + v * (-1.0 / 9676800 + v * (1.0 / 479001600)))));
    return select(size < 1.0f, logit * (0.5f - target) + series, max(logit, 0.0f) - logit * target + log(-expm1(-size) / size));
  }
};

struct ContinuousBernoulli {
  static constexpr const char* name = "continuous-bernoulli";
  static constexpr float smallest = 0, largest = 1;  ///< support of the targets
  static constexpr bool sigmoid_mean = false;

  /// -log p(target | output), summed over features: rows x 1, nats.
  template <class S, class V, class T>
  auto nll(S& step, V logits, T target) const {
    return map_reduce(step, ContinuousBernoulliNll{}, logits, fixed(target));
  }
  /// The mean of the distribution, which lies nearer to 1/2 than lambda.
  template <class S, class V>
  V mean(S& step, V logits) const {
    return map(step, Mean{}, logits);
  }
  struct Mean {
    VAELIB_HD constexpr auto operator()(auto logit) const {
      const auto v = square(logit);  // to logit^9: within 1e-12 where |logit| < 1/2
      const auto series = 0.5f + logit * (1.0 / 12 + v * (-1.0 / 720 + v * (1.0 / 30240 + v * (-1.0 / 1209600 + v * (1.0 / 47900160)))));
      return select(v < 0.25f, series, 0.5f + 0.5f / tanh(logit * 0.5f) - 1.0f / logit);
    }
  };
};

}  // namespace vaelib::inline VAELIB_ABI
