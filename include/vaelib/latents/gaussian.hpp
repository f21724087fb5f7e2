// The Gaussian latent: q(z|x) = N(mu, diag sigma^2), prior N(0, I); Kingma & Welling 2014, Rezende et al. 2014.
//
//   z  = mu + exp(logvar / 2) * noise                       reparameterisation; noise ~ N(0, I)
//   KL = 1/2 (mu^2 + exp(logvar) - 1 - logvar)               nats, for each dimension of each sample
//
// The head gives mu and a raw log-variance side by side (rows x 2 Size). The latter is softly clamped to (-limit, limit) by
// limit * tanh(raw / limit), so that neither exp nor the gradient can overflow; near zero it is the identity.
#pragma once

#include <vaelib/autodiff/operations.hpp>

namespace vaelib::inline VAELIB_ABI {

struct SoftClamp {
  float limit;
  VAELIB_INLINE constexpr auto operator()(auto x) const { return limit * tanh(x * (1 / limit)); }
};
struct Reparameterise {
  SoftClamp clamp;
  VAELIB_HD constexpr auto operator()(auto mu, auto raw, auto noise) const { return mu + exp(clamp(raw) * 0.5f) * noise; }
};
struct StandardNormalKl {
  SoftClamp clamp;
  VAELIB_HD constexpr auto operator()(auto mu, auto raw) const {
    const auto logvar = clamp(raw);
    return 0.5f * (mu * mu + (expm1(logvar) - logvar));
  }
};

/// log p(z) - log q(z|x) of one dimension, for z = mu + exp(logvar / 2) noise: (logvar + noise^2 - z^2) / 2
struct LogPriorOverPosterior {
  SoftClamp clamp;
  VAELIB_HD constexpr auto operator()(auto mu, auto raw, auto noise) const {
    return 0.5f * (clamp(raw) + square(noise) - square(Reparameterise{clamp}(mu, raw, noise)));
  }
};

/// What the head of an encoder says of each sample: rows x Size each; the log-variance is not clamped yet.
template <class V>
struct GaussianPosterior {
  V mu, raw_logvar;
};

template <int Size>
struct Gaussian {
  static constexpr int heads = Size == dynamic ? dynamic : 2 * Size;  ///< features that the encoder's last layer gives
  static constexpr Shape sample_shape{Size};

  [[no_unique_address]] Extent<Size> size{};
  float logvar_limit = 20;  ///< variances between exp(-20) and exp(20)

  Extent<heads> head_features() const {
    if constexpr (Size == dynamic) {
      return {2 * size};
    } else {
      return {};
    }
  }
  /// Splits the head's output.
  template <class S, class V>
  auto posterior(S& step, V head) const {
    auto mu = columns<sample_shape>(step, head, 0, Shape{int(size)});
    return GaussianPosterior<decltype(mu)>{mu, columns<sample_shape>(step, head, int(size), Shape{int(size)})};
  }
  /// The log-variance of q(z|x).
  template <class S, class V>
  V logvar(S& step, const GaussianPosterior<V>& q) const {
    return map(step, SoftClamp{logvar_limit}, q.raw_logvar);
  }

  template <class S, class V>
  V sample(S& step, const GaussianPosterior<V>& q) const {
    return map(step, Reparameterise{{logvar_limit}}, q.mu, q.raw_logvar, fixed(standard_normal<sample_shape>(step, q.mu.space(), q.mu.shape)));
  }

  template <class V, class W>
  struct WeightedSample {
    V z;
    W log_weight;  ///< log p(z) - log q(z|x): rows x 1, nats
  };
  /// A sample of q, and how much likelier it is by the prior: for importance weighting.
  template <class S, class V>
  auto weighted_sample(S& step, const GaussianPosterior<V>& q) const {
    const auto noise = fixed(standard_normal<sample_shape>(step, q.mu.space(), q.mu.shape));
    const auto log_weight = map_reduce(step, LogPriorOverPosterior{{logvar_limit}}, q.mu, q.raw_logvar, noise);
    return WeightedSample<V, std::remove_const_t<decltype(log_weight)>>{map(step, Reparameterise{{logvar_limit}}, q.mu, q.raw_logvar, noise), log_weight};
  }

  /// KL(q || prior) for each dimension: rows x Size, nats.
  template <class S, class V>
  V kl(S& step, const GaussianPosterior<V>& q) const {
    return map(step, StandardNormalKl{{logvar_limit}}, q.mu, q.raw_logvar);
  }

  /// Samples of the prior.
  template <class S>
  auto prior(S& step, const RowSpace* space) const {
    return standard_normal<sample_shape>(step, space, Shape{int(size)});
  }
};

}  // namespace vaelib::inline VAELIB_ABI
