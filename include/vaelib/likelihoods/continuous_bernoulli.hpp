// Continuous Bernoulli likelihood of logits, a normalised density of targets in [0, 1]; Loaiza-Ganem & Cunningham 2019.
//
//   -log p(x | logit) = softplus(logit) - logit * x - log C      nats, for each feature
//   C = 2 artanh(1 - 2 lambda) / (1 - 2 lambda) = logit / tanh(logit / 2)      lambda = sigmoid(logit)
//   mean = lambda / (2 lambda - 1) + 1 / (2 artanh(1 - 2 lambda)) = 1/2 + coth(logit / 2) / 2 - 1 / logit
//
// It is a density, so that nats may be negative. Written in the logit, nothing of it overflows; near 0, where numerators and
// denominators vanish together, series take their place.
#pragma once

#include <vaelib/autodiff/operations.hpp>

namespace vaelib::inline VAELIB_ABI {

/// log C
struct ContinuousBernoulliLogNormaliser {
  VAELIB_HD constexpr auto operator()(auto logit) const {
    const auto v = square(logit);  // to logit^12: within 1e-12 where |logit| < 1/2
    const auto series = 0.69314718055994530942 +
                        v * (1.0 / 12 +
                             v * (-7.0 / 1440 + v * (31.0 / 90720 + v * (-127.0 / 4838400 + v * (73.0 / 34214400 - v * 1.80278954e-7)))));
    return select(v < 0.25f, series, log(logit / tanh(logit * 0.5f)));
  }
};
struct ContinuousBernoulliNll {
  VAELIB_HD constexpr auto operator()(auto logit, auto target) const {
    return softplus(logit) - logit * target - ContinuousBernoulliLogNormaliser{}(logit);
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
