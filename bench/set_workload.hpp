// A hierarchical VAE of sets as a workload: 64 sets of 256 points, two levels of 16 inducing points, width 64, 4 heads,
// a latent of 16 numbers an inducing point, Chamfer distance. peers/torch_step.py has the same.
#pragma once

#include <string_view>
#include <vaelib/layers/set_pooling.hpp>
#include <vaelib/models/set_vae.hpp>
#include <vaelib/vae.hpp>

namespace bench {

using namespace vaelib;

struct SetModel {
  static constexpr int width = 64, heads = 4, inducing_rows = 16, latent_size = 16, levels = 2, points = 256;
  static constexpr int noise_of_set = points * width + levels * inducing_rows * latent_size;
  using Block = MAB<width, heads, GELU>;
  template <class S>
  using Rows = Var<typename S::Real, Shape{width}>;

  Linear<width> embed{}, lift[levels];
  Linear<3> output{};
  RepeatedRows<width> inducing[2 * levels];
  Block blocks[4 * levels];
  Linear<2 * latent_size> prior[levels], posterior[levels];
  Parameter mean{}, deviation{};
  const float* noise = nullptr;  ///< that of the points of all sets, then of each level; none: drawn

  static constexpr Shape input_shape() { return {1, points, 3}; }
  void build() {
    embed.build(Shape{3});
    output.build(Shape{width});
    for (auto& rows : inducing) {
      rows.count = inducing_rows;
      rows.build();
    }
    for (auto& block : blocks) block.build(Shape{width}, Shape{width});
    for (auto& layer : prior) layer.build(Shape{width});
    for (auto& layer : posterior) layer.build(Shape{2 * width});
    for (auto& layer : lift) layer.build(Shape{latent_size});
    mean = deviation = {{width}, normal(1)};
  }
  void fields(auto&& f) {
    f("embed", embed);
    f("output", output);
    for (int i = 0; i < 2 * levels; ++i) f(text("inducing.", i), inducing[i].rows);
    for (int i = 0; i < 4 * levels; ++i) f(text("blocks.", i), blocks[i]);
    for (int l = 0; l < levels; ++l) {
      f(text("prior.", l), prior[l]);
      f(text("posterior.", l), posterior[l]);
      f(text("lift.", l), lift[l]);
    }
    f("mean", mean);
    f("deviation", deviation);
  }

  struct Start {
    constexpr auto operator()(auto e, auto mean, auto log_deviation) const {
      return mean + e * min(exp(log_deviation), 1.0f);
    }
  };
  struct Reparameterised {
    constexpr auto operator()(auto mu, auto logvar, auto e) const { return mu + exp(logvar * 0.5f) * e; }
  };
  struct Divergence {
    constexpr auto operator()(auto pm, auto pl, auto qm, auto ql) const {
      return 0.5f * (pl - ql + (exp(ql) + square(qm - pm)) / exp(pl) - 1.0f);
    }
  };
  struct Total {
    constexpr auto operator()(auto distance, auto divergence) const { return distance + 0.01f * divergence; }
  };

  template <class S>
  auto loss(S& step, const auto& batch) const {
    const long n = batch.count;
    long* offsets = step.arena.template allocate<long>(n + 1);
    for (long g = 0; g <= n; ++g) offsets[g] = g * points;
    const RowSpace *all = step.ragged(n, offsets), *sets = step.rows(n);
    const auto x = step.template constant<Shape{3}>(all, Shape{3}, batch.features);
    Rows<S> encoded[levels], h = embed.forward(step, x);
    for (int l = 0; l < levels; ++l) {
      encoded[l] = blocks[4 * l](step, inducing[2 * l](step, all), h);
      h = blocks[4 * l + 1](step, h, encoded[l]);
    }
    const float* given = noise;
    Rows<S> g = map(step, Start{}, fixed(draw<Shape{width}>(step, all, given)), mean, deviation);
    Var<typename S::Real, Shape{1}> divergence{};
    for (int l = 0; l < levels; ++l) {
      const Rows<S> p = blocks[4 * l + 2](step, inducing[2 * l + 1](step, all), g);
      const Rows<S> e{detail::regroup(step, encoded[levels - 1 - l], p.space()).node, Shape{width}};
      const auto of_prior = prior[l].forward(step, p),
                 of_posterior = posterior[l].forward(step, concatenate(step, p, e));
      constexpr Shape latent{latent_size};
      const auto pm = columns<latent>(step, of_prior, 0), pl = columns<latent>(step, of_prior, latent_size);
      const auto qm = columns<latent>(step, of_posterior, 0), ql = columns<latent>(step, of_posterior, latent_size);
      const auto of_sets = pool_sets(step, Pooling::sum, map_reduce(step, Divergence{}, pm, pl, qm, ql), sets);
      divergence = l == 0 ? of_sets : add(step, divergence, of_sets);
      const auto z = map(step, Reparameterised{}, qm, ql, fixed(draw<latent>(step, p.space(), given)));
      g = blocks[4 * l + 3](step, g, add(step, p, lift[l].forward(step, z)));
    }
    const auto distance = chamfer(step, x, output.forward(step, g), PerSet::sum, sets);
    return mean_rows(step, map_few(step, Total{}, distance, divergence));
  }

 private:
  template <Shape A, class S>
  static Var<typename S::Real, A> draw(S& step, const RowSpace* rows, const float*& given) {
    if (!given) return standard_normal<A>(step, rows);
    const float* from = given;
    given += rows->count * A.size();
    return step.template constant<A>(rows, A, from);
  }
};

struct Set {
  static constexpr std::string_view name = "set";
  static constexpr int batch = 64, latent = SetModel::noise_of_set;
  static constexpr double constant = 0;
  static constexpr long square = 64 * 64, n = 256, m = 16;
  static constexpr long attention = 2 * n * m * 64;                    ///< scores and sums of two blocks: one each way
  static constexpr long looks = (2 * n + 4 * m) * square + attention;  ///< inducing points look at points
  static constexpr long looked_at = (4 * n + 2 * m) * square + attention;  ///< points look at inducing points
  static constexpr long level = 2 * (looks + looked_at) + m * (64 * 32 + 128 * 32 + 16 * 64);
  static constexpr long products[] = {n * 3 * 64, level, level, n * 64 * 3, n* n * 3};
  using Model = SetModel;
};

}  // namespace bench
