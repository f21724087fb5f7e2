// The terms of a VAE's objective with all that keeps a posterior from collapsing; in the place of ElboOptions:
//
//   Vae<Encoder, Gaussian<16>, Decoder, Bernoulli, CollapseControl> model;
//   model.elbo.free_bits = 0.2f;
//
//   objective = reconstruction + beta D + variance sum_d (v_d - 1)^2 + mean sum_d m_d^2
//
// D is the KL divergence with free bits f (Kingma et al. 2016, appendix C.8), on means over the batch, nats:
//
//   FreeBits::dimension    sum_d max(f, KL_d)
//   FreeBits::group        sum over groups of `group` dimensions, max(f, KL of the group)
//   FreeBits::total        max(f, KL)
//
// or, with `decompose`, w_1 I(x; z) + w_2 TC + w_3 sum_d KL(q(z_d) || p(z_d)) (kl_decomposition.hpp; Chen et al. 2018).
// m_d and v_d are mean and variance of the aggregated posterior in the batch; both terms are 0 where they are those of the
// prior (the moments that DIP-VAE-II matches; Kumar et al. 2018).
//
// With a target the free bits adapt to it: they grow by 1 % a step while the mean KL of a dimension is more than 5 % below
// `target`, and shrink while it is as far above, but never exceed the target.
#pragma once

#include <vaelib/models/vae.hpp>
#include <vaelib/regularizers/kl_decomposition.hpp>
#include <vaelib/schedules/schedule.hpp>

namespace vaelib::inline VAELIB_ABI {

enum class FreeBits { dimension, group, total };

struct CollapseControl {
  Schedule free_bits = 0.0f;  ///< nats for each dimension, each group, or all
  FreeBits per = FreeBits::dimension;
  int group = 1;              ///< dimensions of a group; the last one may have fewer
  float target = 0;           ///< nats a dimension; above 0 the free bits (per dimension) adapt, from their first value on
  Schedule variance = 0.0f, mean = 0.0f;
  bool decompose = false;
  Schedule mutual_information = 1.0f, total_correlation = 1.0f, dimension_wise = 1.0f;  ///< w_1, w_2, w_3
  std::int64_t dataset_size = 0;  ///< that `decompose` needs
  bool use_capacity = false;      ///< beta |D - C|, with the capacity schedule
  State threshold{};              ///< of a target

  [[gnu::cold]] void build() {
    if (group < 1) fail("vaelib: free bits for groups of ", group, " dimensions; expected at least 1");
    if (decompose && dataset_size < 1) fail("vaelib: CollapseControl::decompose wants dataset_size, the number of training samples");
    if (target > 0 && per != FreeBits::dimension) fail("vaelib: free bits that adapt to a target are those of dimensions");
    threshold = {target > 0 ? 1 : 0, std::min(target, std::max(free_bits.at(0, 0), target / 10))};
  }
  void fields(auto&& f) {
    if (threshold.count > 0) f("threshold", threshold);
  }
};

/// max(x, floor), for a floor that changes with the step
struct AtLeastScalar {
  VAELIB_HD constexpr auto operator()(auto x, auto floor) const { return select(x > floor, x, floor); }
};
struct SecondMoment {
  VAELIB_HD constexpr auto operator()(auto mu, auto logvar) const { return mu * mu + exp(logvar); }
};
/// (v - 1)^2 of a mean and a second moment
struct VarianceGap {
  VAELIB_HD constexpr auto operator()(auto mean, auto second) const {
    const auto gap = second - mean * mean - 1.0f;
    return gap * gap;
  }
};

namespace detail {

/// Sums of the features by groups of `group`, the last one of what is left: one row of as many numbers.
template <class S, class R, Shape A>
Var<R, Shape{dynamic}> sum_groups(S& step, Var<R, A> x, int group) {
  const int features = int(x.features()), groups = (features + group - 1) / group;
  auto y = step.template variable<Shape{dynamic}>(x.space(), Shape{groups}, step.needs_gradient(x));
  for (long r = 0; r < x.rows(); ++r)
    for (int g = 0; g < groups; ++g) {
      R sum = 0;
      for (int d = g * group; d < std::min(features, (g + 1) * group); ++d) sum += x.value()[r * features + d];
      y.value()[r * groups + g] = sum;
    }
  if (y.needs_gradient())
    step.record({y.node}, [=](S& s) {
      const auto t = s.target(x);
      if (!t) return;
      for (long r = 0; r < x.rows(); ++r)
        for (int d = 0; d < features; ++d) {
          R& to = t.data[r * features + d];
          to = (t.add ? to : R(0)) + s.gradient(y)[r * groups + d / group];
        }
    });
  return y;
}

/// The free bits of this step where they adapt; the next step's are proposed.
template <class S, class R, Shape A>
R adapted(S& step, const CollapseControl& control, Var<R, A> by_dimension) {
  const R now = *step.value(control.threshold);
  if (R* next = step.propose(control.threshold)) {
    double mean = 0;
    for (long d = 0; d < by_dimension.size(); ++d) mean += double(by_dimension.value()[d]) / double(by_dimension.size());
    const double target = double(control.target), factor = mean < 0.95 * target ? 1.01 : mean > 1.05 * target ? 0.99 : 1;
    *next = R(std::min(target, double(now) * factor));
  }
  return now;
}

}  // namespace detail

template <class S, class Latent, class Q, class Z, class Nll>
auto put_together(S& step, const CollapseControl& control, const Latent& latent, const Q& q, Z z, Nll nll) {
  const auto at = [&](const Schedule& schedule) { return schedule.at(step.now.step, step.now.epoch); };
  const auto scaled = [&](const auto& x, double by) { return map_few(step, Multiply{}, x, step.scalar(by)); };
  const auto reconstruction = mean_rows(step, nll);
  const auto by_dimension = mean_rows(step, latent.kl(step, q));
  const auto kl = sum_few(step, by_dimension);
  auto charged = kl;
  if (control.decompose) {
    const auto parts = kl_decomposition(step, q.mu, latent.logvar(step, q), z, control.dataset_size);
    const auto part = [&](int k, const Schedule& weight) { return scaled(columns<Shape{1}>(step, parts, k), double(at(weight))); };
    charged = map_few(step, Add{}, map_few(step, Add{}, part(0, control.mutual_information), part(1, control.total_correlation)), part(2, control.dimension_wise));
  } else if (const auto floor = control.threshold.count > 0 ? double(detail::adapted(step, control, by_dimension)) : double(at(control.free_bits)); floor > 0) {
    const auto bits = step.scalar(floor);
    if (control.per == FreeBits::dimension) charged = sum_few(step, map_few(step, AtLeastScalar{}, by_dimension, bits));
    if (control.per == FreeBits::group) charged = sum_few(step, map_few(step, AtLeastScalar{}, detail::sum_groups(step, by_dimension, control.group), bits));
    if (control.per == FreeBits::total) charged = map_few(step, AtLeastScalar{}, kl, bits);
  }
  auto objective = map_few(step, Objective{control.use_capacity}, reconstruction, charged, step.beta, step.capacity);
  const double of_variance = double(at(control.variance)), of_mean = double(at(control.mean));
  if (of_variance > 0 || of_mean > 0) {
    const auto mean = mean_rows(step, q.mu);
    if (of_variance > 0) {
      const auto second = mean_rows(step, map(step, SecondMoment{}, q.mu, latent.logvar(step, q)));
      objective = map_few(step, Add{}, objective, scaled(sum_few(step, map_few(step, VarianceGap{}, mean, second)), of_variance));
    }
    if (of_mean > 0) objective = map_few(step, Add{}, objective, scaled(sum_few(step, map_few(step, Square{}, mean)), of_mean));
  }
  return Losses<std::remove_const_t<decltype(kl)>>{objective, reconstruction, kl};
}

}  // namespace vaelib::inline VAELIB_ABI
