// Bernoulli likelihood of logits; targets in [0, 1].
//
//   -log p(x | logit) = softplus(logit) - logit * x      nats, for each feature
//
// For x in {0, 1} this is a likelihood. Grey targets in between are allowed, as is common for images: the same formula is
// then the cross-entropy to x, whose least value is not zero, and no normalised density (Loaiza-Ganem & Cunningham 2019).
#pragma once

#include <vaelib/autodiff/operations.hpp>

namespace vaelib::inline VAELIB_ABI {

struct BernoulliNll {
  VAELIB_HD constexpr auto operator()(auto logit, auto target) const { return softplus(logit) - logit * target; }
};

struct Bernoulli {
  static constexpr const char* name = "bernoulli";
  static constexpr float smallest = 0, largest = 1;  ///< support of the targets
  static constexpr bool sigmoid_mean = true;

  /// -log p(target | output), summed over features: rows x 1, nats.
  template <class S, class V, class T>
  auto nll(S& step, V logits, T target) const {
    return map_reduce(step, BernoulliNll{}, logits, fixed(target));
  }
  /// The mean of the pixels: probabilities.
  template <class S, class V>
  V mean(S& step, V logits) const {
    return map(step, Probability{}, logits);
  }
  struct Probability {
    VAELIB_HD constexpr auto operator()(auto logit) const { return sigmoid(logit); }
  };
};

}  // namespace vaelib::inline VAELIB_ABI
