// A Gaussian latent that cannot collapse: each dimension has a KL divergence of at least `rate` nats for every sample, as in the
// delta-VAE; Razavi et al. 2019, "Preventing posterior collapse with delta-VAEs", section 2.2.
//
//   KL(N(mu, s^2) || N(0, 1)) >= (s^2 - 1 - log s^2) / 2 >= rate      for all s^2 <= c, where c < 1 makes the last an equality
//
// so the log-variance is led below log c:  log s^2 = v - softplus(v - raw)  with v = log c.
#pragma once

#include <vaelib/core/math.hpp>
#include <vaelib/latents/gaussian.hpp>

namespace vaelib::inline VAELIB_ABI {

struct BelowCeiling {
  float ceiling;
  VAELIB_HD constexpr auto operator()(auto x) const { return ceiling - softplus(ceiling - x); }
};

template <int Size>
struct CommittedGaussian : Gaussian<Size> {
  float rate = 0.1f;  ///< nats a dimension, 0 to 5

  /// The largest log-variance.
  float ceiling() const {
    if (!(rate >= 0 && rate <= 5)) fail("vaelib: a CommittedGaussian of ", rate, " nats a dimension; expected 0 to 5");
    double low = -12, high = 0;
    for (int i = 0; i < 60; ++i) {
      const double v = (low + high) / 2;
      (0.5 * (std::expm1(v) - v) < double(rate) ? high : low) = v;
    }
    return float(low);
  }
  template <class S, class V>
  auto posterior(S& step, V head) const {
    auto q = Gaussian<Size>::posterior(step, head);
    // the clamp of the log-variance comes after this one
    const double limit = double(this->logvar_limit), v = double(ceiling());
    q.raw_logvar = map(step, BelowCeiling{float(limit * std::atanh(v / limit))}, q.raw_logvar);
    return q;
  }
};

}  // namespace vaelib::inline VAELIB_ABI
