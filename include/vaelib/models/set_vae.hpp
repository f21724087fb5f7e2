// The hierarchical VAE of sets; Kim et al. 2021, "SetVAE: learning hierarchical composition for generative modeling of set-structured
// data". x: ragged rows of points; levels l = 1 (nearest to the data) to L.
//
//   encoder     h = E x,   p_l = MAB(I_l, h),   h = MAB(h, p_l)                         I_l: learned inducing rows, by slots
//   generator   g = N z_0,  and for l = L to 1:
//                 c = MAB(J_l, g)                                                       J_l: learned inducing rows
//                 u ~ N(0, 1), or in training u ~ q(u|x) = N(d, s^2), d and s of [c, p_l]
//                 z = mu(c) + sigma(c) u
//                 g = MAB(g, c + V_l z)
//   y = O g
//   objective   weight chamfer(y, x) + beta sum_l w_l D_l
//
// u is z seen from its prior p(z|c) (the residual posterior of Vahdat and Kautz 2020, section 3.2), so that every level has
// the prior N(0, 1), KL(q(u|x) || N(0, 1)) is that of z, and all figures of metrics/posterior.hpp hold for each level. A
// level has inducing_l x latent numbers a set. D_l is its KL divergence with free bits: of each number (mean over the batch),
// or on all of a level, or on all levels. w_l are its weights; deeper levels may be weighed more. While beta is below
// `balance_below` they are multiplied by gamma_l, in proportion to the level's KL divergence in the batch + 0.01 nats and 1 in
// the mean, so that a level with little of the code pays little for more (Vahdat and Kautz 2020, appendix A).
//
// z_0 are random points, as many as x has: normal with learned mean and deviation, a mixture of such, or fixed (the same
// points for every set). chamfer is in squared units, summed over points: weight = 1 / (2 sigma^2) makes it the squared error
// of a Gaussian with deviation sigma to the nearest point; it is no likelihood.
#pragma once

#include <vaelib/latents/gaussian.hpp>
#include <vaelib/layers/embedding.hpp>
#include <vaelib/layers/set_attention.hpp>
#include <vaelib/likelihoods/set_distances.hpp>
#include <vaelib/models/batch.hpp>
#include <vaelib/models/collapse_control.hpp>
#include <vaelib/models/losses.hpp>
#include <vaelib/schedules/schedule.hpp>

#include <span>
#include <vector>

namespace vaelib::inline VAELIB_ABI {

enum class InitialSet { gaussian, mixture, fixed };
enum class LevelFreeBits { number, level, total };

struct SetVaeOptions {
  int points = 3;                   ///< numbers of a point
  int width = 64, heads = 4, latent = 16;
  std::vector<int> inducing{16, 16};  ///< rows of each level, the nearest to the data first: as many levels
  Norm norm = Norm::post;
  bool spectral_norm = false;       ///< of all linear layers but E and O, which have the units of the points
  InitialSet initial = InitialSet::gaussian;
  int components = 4;               ///< of a mixture
  float weight = 1;                 ///< of the Chamfer distance
  Schedule free_bits = 0.0f;        ///< nats
  LevelFreeBits per = LevelFreeBits::number;
  std::vector<float> level_weights{};  ///< w_l; none: all 1
  float balance_below = 0;          ///< levels are balanced while beta is below this; 0: never
  bool decompose = false;           ///< D_l in parts, each with a weight: regularizers/kl_decomposition.hpp; no free bits then
  float mutual_information = 1, total_correlation = 1, dimension_wise = 1;
  std::int64_t dataset_size = 0;    ///< training sets, which `decompose` needs

  int levels() const { return int(inducing.size()); }
};

namespace detail {

/// The numbers of x as rows of another space.
template <class S, class R, Shape A>
Var<R, Shape{dynamic}> regroup(S& step, Var<R, A> x, const RowSpace* space) {
  if (space->count == 0 ? x.size() != 0 : x.size() % space->count != 0) fail("vaelib: ", x.size(), " numbers are no rows of ", space->count);
  const int features = space->count == 0 ? int(x.features()) : int(x.size() / space->count);
  auto y = step.template variable<Shape{dynamic}>(space, Shape{features}, step.needs_gradient(x));
  std::copy_n(x.value(), x.size(), y.value());
  if (y.needs_gradient())
    step.record({y.node}, [=](S& s) {
      if (auto t = s.target(x)) s.backend.copy(x.size(), s.gradient(y), t);
    });
  return y;
}

}  // namespace detail

/// z = mu + exp(logvar / 2) u
struct FromPrior {
  SoftClamp clamp;
  VAELIB_HD constexpr auto operator()(auto mu, auto raw, auto u) const { return mu + exp(clamp(raw) * 0.5f) * u; }
};
struct ScaleAndShift {
  VAELIB_HD constexpr auto operator()(auto noise, auto log_scale, auto shift) const { return shift + exp(log_scale) * noise; }
};

struct SetVae {
  static constexpr Shape any{dynamic};
  using Block = MAB<dynamic, dynamic>;

  struct Level {
    ISAB<dynamic, dynamic, ReLU, Over::slots> encoder{};  ///< I_l
    MAB<dynamic, dynamic, ReLU, Over::slots> gather{};    ///< J_l look at the generated set
    RepeatedRows<dynamic> rows{};
    SpectralNorm<Linear<dynamic>> prior{}, posterior{}, lift{};
    Block spread{};

    void fields(auto&& f) {
      f("encoder", encoder);
      f("rows", rows.rows);
      f("gather", gather);
      f("prior", prior);
      f("posterior", posterior);
      f("lift", lift);
      f("spread", spread);
    }
  };

  SetVaeOptions options{};
  Gaussian<dynamic> latent{};
  Linear<dynamic> embed{}, leave{};
  SpectralNorm<Linear<dynamic>> enter{};
  Embedding<dynamic, dynamic> means{}, log_scales{};  ///< of the initial set
  std::vector<Level> levels{};

  SetVae() = default;
  explicit SetVae(SetVaeOptions o) : options(std::move(o)) {}

  [[gnu::cold]] void build() {
    const auto& o = options;
    if (o.points < 1 || o.latent < 1) fail("vaelib: a SetVae of points of ", o.points, " numbers and a latent of ", o.latent, "; expected at least 1");
    if (o.levels() < 1) fail("vaelib: a SetVae has at least one level; SetVaeOptions::inducing names the rows of each");
    if (o.width < 1 || o.heads < 1 || o.width % o.heads != 0) fail("vaelib: a SetVae of width ", o.width, " cannot have ", o.heads, " heads of one width");
    if (o.components < 1) fail("vaelib: a mixture of ", o.components, " components");
    if (o.decompose && o.dataset_size < 1) fail("vaelib: SetVaeOptions::decompose wants dataset_size, the number of training sets");
    if (!o.level_weights.empty() && o.level_weights.size() != o.inducing.size()) fail("vaelib: ", o.level_weights.size(), " weights for ", o.levels(), " levels");
    const Shape wide{o.width};
    embed.out = enter.layer.out = o.width;
    enter.on = o.spectral_norm;
    leave.out = o.points;
    embed.build(Shape{o.points});
    enter.build(wide);
    leave.build(wide);
    means.count = log_scales.count = o.initial == InitialSet::mixture ? o.components : 1;
    means.out = log_scales.out = o.width;
    means.build();
    log_scales.build();
    log_scales.weight.initial = constant(0);
    levels.assign(o.inducing.size(), {});
    for (std::size_t l = 0; l < levels.size(); ++l) {
      Level& level = levels[l];
      if (o.inducing[l] < 1) fail("vaelib: level ", l + 1, " of a SetVae has ", o.inducing[l], " inducing rows, expected at least 1");
      level.encoder.inducing = level.rows.count = o.inducing[l];
      level.encoder.mab1.width = level.gather.width = level.rows.width = level.spread.width = level.lift.layer.out = o.width;
      level.encoder.mab1.heads = level.gather.heads = level.spread.heads = o.heads;
      level.encoder.mab1.norm = level.gather.norm = level.spread.norm = o.norm;
      level.encoder.mab1.spectral = level.gather.spectral = level.spread.spectral = o.spectral_norm;
      level.prior.on = level.posterior.on = level.lift.on = o.spectral_norm;
      level.prior.layer.out = level.posterior.layer.out = 2 * o.latent;
      level.encoder.build(wide);
      level.rows.build();
      level.gather.build(wide, wide);
      level.prior.build(wide);
      level.posterior.build(Shape{2 * o.width});
      level.lift.build(Shape{o.latent});
      level.spread.build(wide, wide);
    }
  }
  void fields(auto&& f) {
    f("embed", embed);
    f("means", means);
    f("log_scales", log_scales);
    f("enter", enter);
    for (std::size_t l = 0; l < levels.size(); ++l) f(text("levels.", l), levels[l]);
    f("leave", leave);
  }
  Shape input_shape() const { return {options.points}; }
  /// Numbers of a level's code for one set.
  int code_size(std::size_t level) const { return options.inducing[level] * options.latent; }

  /// p_1 to p_L of a set.
  template <class S, class X>
  auto encode(S& step, X x) const {
    using V = Var<typename S::Real, any>;
    V h = embed.forward(step, x);
    V* kept = step.arena.template allocate<V>(levels.size());
    for (std::size_t l = 0; l < levels.size(); ++l) {
      kept[l] = levels[l].encoder.project(step, h);
      if (l + 1 < levels.size()) h = levels[l].encoder.mab1(step, h, kept[l]);
    }
    return kept;
  }

  /// Points for the rows of `space`, a ragged one. choose(level, c, sets) gives u, one row of code_size(level) a set; `sets` has one row a set.
  template <class S>
  auto generate(S& step, const RowSpace* space, const RowSpace* sets, auto&& choose) const {
    using V = Var<typename S::Real, any>;
    V g = enter.forward(step, initial(step, space));
    for (std::size_t l = levels.size(); l-- > 0;) {
      const Level& level = levels[l];
      const V c = level.gather(step, level.rows(step, space), g);
      const V prior = level.prior.forward(step, c);
      const V u = detail::regroup(step, V(choose(l, c, sets)), c.space());
      const V z = map(step, FromPrior{{latent.logvar_limit}}, V(columns<any>(step, prior, 0, Shape{options.latent})), V(columns<any>(step, prior, options.latent, Shape{options.latent})), u);
      g = level.spread(step, g, add(step, c, V(level.lift.forward(step, z))));
    }
    return leave.forward(step, g);
  }
  /// q(u|x) of a level, given c: one row of code_size(level) a set.
  template <class S, class V>
  auto posterior(S& step, std::size_t l, V c, V p, const RowSpace* sets) const {
    const auto head = levels[l].posterior.forward(step, concatenate(step, c, detail::regroup(step, p, c.space())));
    return GaussianPosterior<V>{detail::regroup(step, columns<any>(step, head, 0, Shape{options.latent}), sets),
                                detail::regroup(step, columns<any>(step, head, options.latent, Shape{options.latent}), sets)};
  }
  /// The points that the codes of a batch make; seen(level, q, u) is told of each level.
  template <class S, class X>
  auto reconstruct(S& step, X x, const RowSpace* sets, auto&& seen) const {
    const auto* kept = encode(step, x);
    return generate(step, x.space(), sets, [&](std::size_t l, auto c, const RowSpace* rows) {
      const auto q = posterior(step, l, c, kept[l], rows);
      const auto u = latent.sample(step, q);
      seen(l, q, u);
      return u;
    });
  }
  /// New sets, of the counts of `space`.
  template <class S>
  auto sample(S& step, const RowSpace* space, const RowSpace* sets) const {
    return generate(step, space, sets, [&](std::size_t l, auto, const RowSpace* rows) { return standard_normal<any>(step, rows, Shape{code_size(l)}); });
  }

  template <class S, class B>
  auto loss(S& step, const B& batch) const {
    using V = Var<typename S::Real, any>;
    using Number = Var<typename S::Real, Shape{1}>;
    const auto x = points_of<any>(step, batch);
    const auto zero = [&] {
      auto number = step.template variable<Shape{1}>(step.single(), Shape{1}, false);
      *number.value() = 0;
      return number;
    };
    Number kl = zero(), charged = zero();
    const auto bits = double(options.free_bits.at(step.now.step, step.now.epoch));
    const auto floor = [&](auto divergence) { return bits > 0 ? map_few(step, AtLeastScalar{}, divergence, step.scalar(bits)) : divergence; };
    Number *own = step.arena.template allocate<Number>(2 * levels.size()), *paid = own + levels.size();
    const V y = reconstruct(step, x, batch.space, [&](std::size_t l, const auto& q, auto u) {
      const auto by_number = mean_rows(step, latent.kl(step, q));
      kl = map_few(step, Add{}, kl, own[l] = sum_few(step, by_number));
      paid[l] = own[l];
      if (options.decompose) {
        const auto parts = kl_decomposition(step, q.mu, latent.logvar(step, q), u, options.dataset_size);
        const auto part = [&](int k, float weight) { return map_few(step, ScaleBy{weight}, columns<Shape{1}>(step, parts, k)); };
        paid[l] = map_few(step, Add{}, map_few(step, Add{}, part(0, options.mutual_information), part(1, options.total_correlation)), part(2, options.dimension_wise));
      } else if (options.per == LevelFreeBits::number) {
        paid[l] = sum_few(step, floor(by_number));
      } else if (options.per == LevelFreeBits::level) {
        paid[l] = floor(own[l]);
      }
    });
    const bool balanced = double(*step.beta.value) < double(options.balance_below);
    const double mean = double(*kl.value()) / double(levels.size()) + least_kl;
    for (std::size_t l = levels.size(); l-- > 0;) {
      float weight = options.level_weights.empty() ? 1.0f : options.level_weights[l];
      if (balanced) weight *= float((double(*own[l].value()) + least_kl) / mean);
      charged = map_few(step, Add{}, charged, map_few(step, ScaleBy{weight}, paid[l]));
    }
    if (options.per == LevelFreeBits::total && !options.decompose) charged = floor(charged);
    const Number error = map_few(step, ScaleBy{options.weight}, mean_rows(step, Number(chamfer(step, y, x, PerSet::sum, batch.space))));
    return Losses<Number>{map_few(step, Objective{false}, error, charged, step.beta, step.capacity), error, kl};
  }

 private:
  static constexpr double least_kl = 0.01;  ///< nats, added to that of a level before it is balanced

  template <class S>
  auto initial(S& step, const RowSpace* space) const {
    using V = Var<typename S::Real, any>;
    const int width = options.width;
    auto* component = step.arena.template allocate<std::int32_t>(std::size_t(space->count));
    std::fill_n(component, space->count, 0);
    V noise = step.template variable<any>(space, Shape{width}, false);
    if (options.initial == InitialSet::mixture) {
      auto which = step.template variable<any>(space, Shape{1}, false);
      step.backend.uniform(step.next_key(), space->first, space->count, 1, which.value());
      for (long r = 0; r < space->count; ++r) component[r] = std::min(options.components - 1, std::int32_t(double(which.value()[r]) * options.components));
    }
    if (options.initial == InitialSet::fixed) {
      for (long g = 0; g < space->groups; ++g)  // point k of each set is the same
        step.backend.normal(RandomKey{.seed = 5}, 0, space->offsets[g + 1] - space->offsets[g], width, noise.value() + space->offsets[g] * width);
    } else {
      step.backend.normal(step.next_key(), space->first, space->count, width, noise.value());
    }
    return map(step, ScaleAndShift{}, noise, V(log_scales(step, space, component)), V(means(step, space, component)));
  }
};

}  // namespace vaelib::inline VAELIB_ABI
