// Layers of sets after Lee et al. 2019, "Set Transformer", section 3, on ragged rows (core/rows.hpp):
//
//   MAB(x, y)   h = norm(x + attention(x, y)),   norm(h + rff(h))      rows of x look at rows of y; rff: two linear layers
//   SAB(x)      MAB(x, x)                                              every point looks at all points of its set
//   ISAB(x)     h = MAB(I, x),   MAB(x, h)                             through `inducing` learned rows I, a copy for each set
//   PMA(x)      MAB(S, rff(x))                                         `seeds` learned rows S pool a set
//
// All take and give rows of Width features; MAB, SAB and ISAB give a row for each of x, PMA `seeds` rows a set. The
// order of the points of a set does not matter but for rounding. Norm::post is the paper's; Norm::pre puts the norms
// before attention and rff instead (x + attention(norm(x), y), where y is normed too if it is x itself), Norm::none
// leaves them out.
//
// All linear layers can have spectral normalisation (layers/spectral_norm.hpp): `spectral`.
//
// ISAB with Over::slots has its first attention normalised over the inducing rows, as SetVAE has it (Kim et al. 2021).
#pragma once

#include <vaelib/layers/attention.hpp>
#include <vaelib/layers/layer_norm.hpp>
#include <vaelib/layers/residual_mlp.hpp>

namespace vaelib::inline VAELIB_ABI {

enum class Norm { post, pre, none };

/// Learned rows, the same for every set: `count` rows of Width features a set, sums of the gradients of all sets.
template <int Width>
struct RepeatedRows {
  [[no_unique_address]] Extent<Width> width{};
  int count = 1;
  Parameter rows{};

  [[gnu::cold]] void build() {
    if (count < 1) fail("vaelib: a set has ", count, " learned rows, expected at least 1");
    rows = {{count, int(width)}, initialize(Initializer::xavier_uniform, width, count)};
  }
  /// For as many sets as `sets` has.
  template <class S>
  auto operator()(S& step, const RowSpace* sets) const {
    if (!sets->offsets) fail("vaelib: learned rows of sets want ragged rows, found ", sets->count, " plain rows");
    const long groups = sets->groups, size = rows.size();
    long* offsets = step.arena.template allocate<long>(groups + 1);
    for (long g = 0; g <= groups; ++g) offsets[g] = g * count;
    auto y = step.template variable<Shape{Width}>(step.ragged(groups, offsets, 0, count), Shape{int(width)},
                                                  step.needs_gradient(rows));
    step.backend.spread_rows(groups, size, step.value(rows), 1, {y.value()});
    if (y.needs_gradient())
      step.record({y.node}, [=, p = rows](S& s) {
        if (auto t = s.target(p)) s.backend.sum_rows(groups, size, s.gradient(y), 1, t);
      });
    return y;
  }
};

/// See the head of this file.
template <int Width, int Heads = 1, class Activation = ReLU, Over What = Over::keys>
struct MAB {
  [[no_unique_address]] Extent<Width> width{};
  [[no_unique_address]] Extent<Heads> heads{};
  Norm norm = Norm::post;
  int hidden = 0;  ///< units of rff; 0: as many as Width
  bool spectral = false;
  MultiHeadAttention<Width, Heads, What> attention{};
  LayerNorm ln0{}, ln1{};
  SpectralNorm<Linear<dynamic>> linear1{};
  SpectralNorm<Linear<Width>> linear2{};

  [[gnu::cold]] void build(Shape x, Shape y) {
    if (!agree(x, Shape{int(width)})) fail("vaelib: MAB of ", int(width), " features, found rows of ", text_of(x));
    if (hidden < 0) fail("vaelib: MAB of ", hidden, " hidden units, expected at least 1");
    if constexpr (Width == dynamic) attention.width = linear2.layer.out = width;
    if constexpr (Heads == dynamic) attention.heads = heads;
    linear1.layer.out = hidden > 0 ? hidden : int(width);
    attention.spectral = linear1.on = linear2.on = spectral;
    attention.build(x, y);
    ln0.build(x);
    ln1.build(x);
    linear1.build(x);
    linear2.build(Shape{int(linear1.layer.out)});
  }
  void fields(auto&& f) {
    f("attention", attention);
    if (norm != Norm::none) {
      f("ln0", ln0);
      f("ln1", ln1);
    }
    f("linear1", linear1);
    f("linear2", linear2);
  }
  template <class S, class X, class Y>
  X operator()(S& step, X x, Y y) const {
    static_assert(agree(X::static_shape, Shape{Width}), "vaelib: MAB adds to rows of its own width");
    const X from = norm == Norm::pre ? ln0.forward(step, x) : x;
    const X a = like(x, x.node == y.node ? attention(step, from, from) : attention(step, from, y));
    if (norm == Norm::post && !spectral && ResidualMlp::fits(width, linear1.layer.out))
      return {detail::residual_mlp(step, Activation{}, x.node, a.node, ln0, linear1.layer, linear2.layer, ln1), x.shape};
    X h = add(step, x, a);
    if (norm == Norm::post) h = ln0.forward(step, h);
    const X y1 = add(step, h, rff(step, norm == Norm::pre ? ln1.forward(step, h) : h));
    return norm == Norm::post ? ln1.forward(step, y1) : y1;
  }

 private:
  template <class X, class Y>
  static X like(X x, Y y) {
    return {y.node, x.shape};
  }
  template <class S, class X>
  X rff(S& step, X x) const {
    if constexpr (SlopeFromOutput<Activation>) {
      return like(x, linear2.forward(step, linear1.forward(step, x, Activation{})));
    } else {
      return like(x, linear2.forward(step, map(step, Activation{}, linear1.forward(step, x))));
    }
  }
};

/// See the head of this file.
template <int Width, int Heads = 1, class Activation = ReLU>
struct SAB {
  MAB<Width, Heads, Activation> mab{};

  static constexpr bool keeps_features = true;
  static constexpr bool accepts(Shape in) { return in.is_flat() && agree(in.channels, Width); }
  static constexpr Shape output(Shape in) { return in; }
  [[gnu::cold]] void build(Shape in) { mab.build(in, in); }
  void fields(auto&& f) { f("mab", mab); }
  template <class S, class X>
  X forward(S& step, X x) const {
    return mab(step, x, x);
  }
};

/// See the head of this file. Settings are those of mab1; mab0 takes over its width, heads, norm, hidden and spectral.
template <int Width, int Heads = 1, class Activation = ReLU, Over What = Over::keys>
struct ISAB {
  int inducing = 16;
  MAB<Width, Heads, Activation> mab1{};
  MAB<Width, Heads, Activation, What> mab0{};
  RepeatedRows<Width> rows{};

  static constexpr bool keeps_features = true;
  static constexpr bool accepts(Shape in) { return in.is_flat() && agree(in.channels, Width); }
  static constexpr Shape output(Shape in) { return in; }
  [[gnu::cold]] void build(Shape in) {
    if constexpr (Width == dynamic) mab0.width = rows.width = mab1.width;
    if constexpr (Heads == dynamic) mab0.heads = mab1.heads;
    mab0.norm = mab1.norm;
    mab0.hidden = mab1.hidden;
    mab0.spectral = mab1.spectral;
    rows.count = inducing;
    rows.build();
    mab0.build(Shape{int(mab1.width)}, in);
    mab1.build(in, Shape{int(mab1.width)});
  }
  void fields(auto&& f) {
    f("I", rows.rows);
    f("mab0", mab0);
    f("mab1", mab1);
  }
  /// The rows h of the inducing points: what a hierarchical model keeps of a set.
  template <class S, class X>
  auto project(S& step, X x) const {
    return mab0(step, rows(step, x.space()), x);
  }
  template <class S, class X>
  X forward(S& step, X x) const {
    return mab1(step, x, project(step, x));
  }
};

/// See the head of this file. Gives ragged rows, `seeds` a set: with one seed, pool_sets(..., Pooling::sum, ...) makes
/// them plain rows. An empty set gives what the seeds make of zeros.
template <int Width, int Heads = 1, class Activation = ReLU>
struct PMA {
  int seeds = 1;
  MAB<Width, Heads, Activation> mab{};
  RepeatedRows<Width> rows{};
  SpectralNorm<Linear<Width>> linear1{}, linear2{};

  static constexpr bool accepts(Shape in) { return in.is_flat() && agree(in.channels, Width); }
  static constexpr Shape output(Shape in) { return in; }
  [[gnu::cold]] void build(Shape in) {
    if constexpr (Width == dynamic) rows.width = linear1.layer.out = linear2.layer.out = mab.width;
    linear1.on = linear2.on = mab.spectral;
    rows.count = seeds;
    rows.build();
    linear1.build(in);
    linear2.build(in);
    mab.build(in, in);
  }
  void fields(auto&& f) {
    f("S", rows.rows);
    f("linear1", linear1);
    f("linear2", linear2);
    f("mab", mab);
  }
  template <class S, class X>
  auto forward(S& step, X x) const {
    const auto y = linear2.forward(step, map(step, Activation{}, linear1.forward(step, x)));
    return mab(step, rows(step, x.space()), y);
  }
};

}  // namespace vaelib::inline VAELIB_ABI
