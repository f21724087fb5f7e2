// Whether a posterior collapsed, and what may help: rules on what was measured and, where it is known, on how it was trained.
//
// A collapsed VAE has q(z|x) = p(z): its decoder no longer listens to z and is a generator without condition. (The other
// end, beta towards 0, is the plain autoencoder.) All thresholds are shares or nats a dimension, so that they hold for
// any size; CollapseThresholds changes them.
#pragma once

#include <vaelib/metrics/posterior.hpp>

#include <limits>
#include <string>

namespace vaelib::inline VAELIB_ABI {
namespace metrics {

/// What is known of a trained model; a number that is not known is NaN.
struct CollapseState {
  static constexpr double unknown = std::numeric_limits<double>::quiet_NaN();
  PosteriorUse use{};
  KlDecomposition parts{};              ///< samples = 0: unknown
  double decoder_use = unknown;         ///< nats by which -log p(x|z) grows when z is that of another sample
  double reconstruction = unknown;      ///< -log p(x|z), nats a sample
  // the run
  double beta = unknown, free_bits = unknown, learning_rate = unknown, clip_norm = unknown;  ///< at its end; 0: none
  double train_loss = unknown, val_loss = unknown;  ///< -ELBO of the last epoch
  double unsteady = unknown;            ///< share of the epochs after the first in which the training -ELBO rose by more than 1 %
  double skipped = unknown;             ///< steps whose numbers were not finite
  bool still_learning = false;          ///< the last epoch was the best
};

/// One rule that holds: which, what was found, and what may help.
struct CollapseAdvice {
  std::string rule, sentence;
};

/// The judgement of a level.
enum class PosteriorHealth { collapsed, partly, healthy };
inline PosteriorHealth health_of(const PosteriorUse& u, const CollapseThresholds& t = {}) {
  if (u.collapse_ratio > t.collapsed || u.latent_utilization_ratio < t.idle) return PosteriorHealth::collapsed;
  return u.collapse_ratio < t.healthy && u.latent_utilization_ratio > t.used ? PosteriorHealth::healthy : PosteriorHealth::partly;
}

/// The rules that hold, the most telling first; none where nothing is wrong.
///
///   low_kl             avg_kl is below the threshold: beta, its warm-up, free bits
///   decoder_ignores_z  another z changes -log p(x|z) by less than 1 % of it or 0.1 nats: weaken the decoder
///   reconstruction     the same as low_kl, and the reconstruction outweighs the KL divergence a thousand times: is the likelihood right?
///   idle_dimensions    latent_utilization_ratio is low, but not all is collapsed: fewer dimensions, or a larger model
///   entangled          the total correlation is more than a third of the KL divergence: weigh it by itself
///   high_kl            avg_kl is high: samples of the prior are unlike codes; a larger beta
///   narrow             the standard deviations of q(z|x) are nearly 0: nearly an autoencoder; a larger beta
///   far_from_prior     val_z_var is outside of 0.5 to 2, without collapse: train longer, a larger beta
///   unsteady           the training loss rose often, or steps were skipped: spectral norm, a smaller rate, clipping
///   overfitting        the test -ELBO is more than 5 % above that of the training: dropout, weight decay, more data
///   train_longer       the last epoch was the best
///   few_samples        the mutual information is within 0.5 nats of what so many samples can show
[[gnu::cold]] inline std::vector<CollapseAdvice> collapse_advice(const CollapseState& s, const CollapseThresholds& t = {}) {
  std::vector<CollapseAdvice> advice;
  const auto shown = [](double x) { return std::round(1000 * x) / 1000; };
  const auto percent = [](double x) { return text(std::round(1000 * x) / 10, " %"); };
  const auto say = [&](const char* rule, const auto&... words) { advice.push_back({rule, text(words...)}); };
  const auto& u = s.use;
  const bool low = u.avg_kl < t.low_kl || u.collapse_ratio > t.collapsed;
  if (low) {
    std::string remedies;
    if (!(s.beta <= 0.1)) remedies += text(s.beta > 0 ? text("begin with a beta below ", shown(s.beta)) : std::string("begin with a smaller beta"), " and warm it up longer or in cycles (--beta-strategy cyclical); ");
    remedies += s.free_bits > 0 ? text("raise --free-bits above ", shown(s.free_bits)) : std::string("grant free bits (--free-bits 0.1 to 0.5 nats a dimension)");
    say("low_kl", "The KL divergence is ", shown(u.avg_kl), " nats a dimension, and ", percent(u.collapse_ratio), " of the dimensions have less than ", t.kl, ": ", remedies, '.');
  }
  const bool ignored = s.decoder_use < std::max(0.1, 0.01 * (s.reconstruction == s.reconstruction ? std::abs(s.reconstruction) : 0)) && low;
  if (ignored)
    say("decoder_ignores_z", "Another sample's code changes -log p(x|z) by ", shown(s.decoder_use), " nats only: the decoder does without it. Weaken it (dropout on its inputs, a smaller "
        "receptive field, fewer layers) or lead z to each of its layers.");
  if (low && s.reconstruction > 1000 * std::max(1e-9, u.avg_kl * double(u.dimensions)))
    say("reconstruction", "The reconstruction (", shown(s.reconstruction), " nats) outweighs the KL divergence more than a thousand times: check the likelihood and its scale (--likelihood learned-gaussian finds its own).");
  if (!low && u.latent_utilization_ratio < t.used)
    say("idle_dimensions", u.avg_active_units, " of ", u.dimensions, " dimensions are active: as few dimensions would do, or a larger model, or a weight on the total correlation, may use more of them.");
  const bool few = s.parts.samples > 0 && s.parts.mutual_information.value > s.parts.bound - 0.5;  // then q(z) is not known well
  if (s.parts.samples > 0 && !low && !few && s.parts.total_correlation.value - 3 * s.parts.total_correlation.error > s.parts.closed_form / 3)
    say("entangled", "The total correlation is ", shown(s.parts.total_correlation.value), " of ", shown(s.parts.closed_form), " nats: dimensions tell the same. Weigh it by itself (--tc-decomposition).");
  if (u.avg_kl > t.high_kl)
    say("high_kl", "The KL divergence is ", shown(u.avg_kl), " nats a dimension: samples of the prior are unlike codes; a larger beta or more dimensions brings them together.");
  else if (!u.spreads.empty() && !low && mean_of(u.spreads) < t.narrow)
    say("narrow", "q(z|x) has standard deviations of ", shown(mean_of(u.spreads)), ": nearly an autoencoder. A larger beta widens them.");
  if (!low && (u.val_z_var < 0.5 || u.val_z_var > 2))
    say("far_from_prior", "Codes have a variance of ", shown(u.val_z_var), " a dimension, the prior has 1: what is drawn from the prior is unlike codes, so generated data are poor. Train longer, or with a larger beta.");
  if (s.unsteady > 0.3 || s.skipped > 0)
    say("unsteady", s.skipped > 0 ? text(s.skipped, " steps were left out because their numbers were not finite") : text("The training loss rose in ", percent(s.unsteady), " of the epochs"),
        ": spectral normalisation, a smaller learning rate", s.learning_rate > 0 ? text(" (now ", s.learning_rate, ')') : std::string(), s.clip_norm > 0 ? ", a lower limit of the gradient" : ", a limit of the gradient (--clip-norm 1)",
        ", or a slower warm-up of beta.");
  if (s.val_loss - s.train_loss > 0.05 * std::abs(s.train_loss))
    say("overfitting", "The test -ELBO is ", shown(s.val_loss), " nats, that of the training ", shown(s.train_loss), ": more dropout, weight decay, or more data.");
  if (s.still_learning) say("train_longer", "The last epoch was the best: more epochs may help.");
  if (few)
    say("few_samples", "The mutual information, ", shown(s.parts.mutual_information.value), " nats, is near the ", shown(s.parts.bound), " that ", s.parts.samples, " samples can show: it may be more, and the total correlation is not to be trusted.");
  return advice;
}

}  // namespace metrics
}  // namespace vaelib::inline VAELIB_ABI
