// Quantizers made of others.
//
//   ProductQuantizer<G, Q>    the channels in G equal parts, a quantizer for each; Jegou et al. 2011
//   GroupedQuantizer<G, Q>    the same with one codebook for all parts ("multi-head")
//   ResidualQuantizer<D, Q>   each quantizer takes what the ones before it left; Zeghidour et al. 2021, "SoundStream", algorithm 1
//   Projected<W, Q>           vectors are brought to W channels by a 1x1 convolution and back behind the quantizer (codes of few
//                             dimensions; Yu et al. 2022, "Vector-quantized image modeling with improved VQGAN", section 3.2)
//
// A vector has as many codes as parts or levels; they stand side by side, vector after vector.
#pragma once

#include <vaelib/layers/batch_norm.hpp>
#include <vaelib/layers/convolution.hpp>
#include <vaelib/quantizers/quantizer.hpp>

#include <array>

namespace vaelib::inline VAELIB_ABI {

namespace detail {

/// Channels [first, first + narrow) of every vector, or with `back` the gradient of taking them.
template <class S, class R, Shape A>
auto channel_slice(S& step, Var<R, A> x, int first, int narrow) {
  const long rows = vector_count(x);
  const int wide = x.shape.channels;
  auto y = step.template variable<Shape{A.height, A.width, dynamic}>(x.space(), Shape{x.shape.height, x.shape.width, narrow}, step.needs_gradient(x));
  step.backend.copy_columns(rows, narrow, x.value() + first, wide, y.value(), narrow, false);
  if (y.needs_gradient())
    step.record({y.node}, [=, size = x.size()](S& s) {
      const auto t = s.target(x);
      if (!t) return;
      if (!t.add) std::fill_n(t.data, size, R(0));
      s.backend.copy_columns(rows, narrow, s.gradient(y), narrow, t.data + first, wide, true);
    });
  return y;
}

/// Slices side by side again; each has a gradient of its own.
template <class S, class V, class R, Shape A>
Var<R, A> join_channels(S& step, const V* slices, int count, Var<R, A> like) {
  const long rows = vector_count(like);
  const int wide = like.shape.channels, narrow = wide / count;
  bool needs = false;
  auto* nodes = step.arena.template allocate<Node<R>*>(count);
  for (int g = 0; g < count; ++g) {
    nodes[g] = slices[g].node;
    needs = needs || step.needs_gradient(nodes[g]);
  }
  auto y = step.template variable<A>(like.space(), like.shape, needs);
  for (int g = 0; g < count; ++g) step.backend.copy_columns(rows, narrow, nodes[g]->value, narrow, y.value() + g * narrow, wide, false);
  if (needs)
    step.record({y.node}, [=](S& s) {
      for (int g = 0; g < count; ++g)
        if (auto t = s.target(nodes[g])) s.backend.copy_columns(rows, narrow, s.gradient(y) + g * narrow, wide, t.data, narrow, t.add);
    });
  return y;
}

/// The codes of part g go to every `parts`-th place; or from there.
inline void spread_codes(long rows, int parts, int g, const std::int32_t* from, std::int32_t* to) {
  for (long r = 0; r < rows; ++r) to[r * parts + g] = from[r];
}
template <class S>
const std::int32_t* codes_of_part(S& step, long rows, int parts, int g, const std::int32_t* from) {
  auto* to = step.arena.template allocate<std::int32_t>(rows);
  for (long r = 0; r < rows; ++r) to[r] = from[r * parts + g];
  return to;
}

}  // namespace detail

template <int Parts, class Q>
struct ProductQuantizer {
  static_assert(Parts > 0);
  std::array<Q, Parts> parts{};

  int code_count() const { return parts[0].code_count(); }
  int per_vector() const { return Parts * parts[0].per_vector(); }
  [[gnu::cold]] void build(Shape in) {
    if (in.channels % Parts != 0) fail("vaelib: ", in.channels, " channels cannot be cut into ", Parts, " equal parts");
    for (Q& q : parts) q.build({in.height, in.width, in.channels / Parts});
  }
  void fields(auto&& f) {
    for (int g = 0; g < Parts; ++g) f(g, parts[g]);
  }

  template <class S, class R, Shape A>
  auto quantize(S& step, Var<R, A> x) const {
    const int narrow = x.shape.channels / Parts;
    const auto first = parts[0].quantize(step, detail::channel_slice(step, x, 0, narrow));
    const long rows = first.vectors;
    std::array<std::remove_cvref_t<decltype(first.values)>, Parts> values;
    auto* codes = step.arena.template allocate<std::int32_t>(rows * Parts);
    values[0] = first.values;
    detail::spread_codes(rows, Parts, 0, first.codes, codes);
    auto loss = first.loss;
    double error = double(*first.error.value());
    for (int g = 1; g < Parts; ++g) {
      const auto q = parts[g].quantize(step, detail::channel_slice(step, x, g * narrow, narrow));
      values[g] = q.values;
      detail::spread_codes(rows, Parts, g, q.codes, codes);
      loss = add(step, loss, q.loss);
      error += double(*q.error.value());
    }
    loss = map_few(step, ScaleBy{1.0f / Parts}, loss);
    return Quantized<Var<R, A>, decltype(loss)>{detail::join_channels(step, values.data(), Parts, x), codes, rows, loss, detail::known(step, error / Parts)};
  }
  template <Shape A, class S>
  auto lookup(S& step, const RowSpace* space, Shape shape, const std::int32_t* codes) const {
    const Shape part{shape.height, shape.width, shape.channels / Parts};
    const long rows = space->count * shape.height * shape.width;
    std::array<typename S::template Variable<Shape{A.height, A.width, dynamic}>, Parts> values;
    for (int g = 0; g < Parts; ++g)
      values[g] = parts[g].template lookup<Shape{A.height, A.width, dynamic}>(step, space, part, detail::codes_of_part(step, rows, Parts, g, codes));
    return detail::join_channels(step, values.data(), Parts, step.template variable<A>(space, shape, false));
  }
};

template <int Groups, class Q>
struct GroupedQuantizer {
  static_assert(Groups > 0);
  Q quantizer{};

  int code_count() const { return quantizer.code_count(); }
  int per_vector() const { return Groups * quantizer.per_vector(); }
  [[gnu::cold]] void build(Shape in) {
    if (in.channels % Groups != 0) fail("vaelib: ", in.channels, " channels cannot be cut into ", Groups, " equal groups");
    quantizer.build(grouped(in));
  }
  void fields(auto&& f) { quantizer.fields(f); }

  template <class S, class R, Shape A>
  auto quantize(S& step, Var<R, A> x) const {
    const auto q = quantizer.quantize(step, view<grouped(A)>(x, grouped(x.shape)));
    return Quantized<Var<R, A>, std::remove_cvref_t<decltype(q.loss)>>{view<A>(q.values, x.shape), q.codes, q.vectors / Groups, q.loss, q.error};
  }
  template <Shape A, class S>
  auto lookup(S& step, const RowSpace* space, Shape shape, const std::int32_t* codes) const {
    return view<A>(quantizer.template lookup<grouped(A)>(step, space, grouped(shape), codes), shape);
  }

 private:
  static constexpr Shape grouped(Shape s) {
    return {s.height, s.width == dynamic ? dynamic : s.width * Groups, s.channels == dynamic ? dynamic : s.channels / Groups};
  }
};

template <int Depth, class Q>
struct ResidualQuantizer {
  static_assert(Depth > 0);
  std::array<Q, Depth> levels{};

  int code_count() const { return levels[0].code_count(); }
  static constexpr int per_vector() { return Depth; }
  [[gnu::cold]] void build(Shape in) {
    for (Q& q : levels) q.build(in);
  }
  void fields(auto&& f) {
    for (int d = 0; d < Depth; ++d) f(d, levels[d]);
  }

  template <class S, class R, Shape A>
  auto quantize(S& step, Var<R, A> x) const {
    const long rows = vector_count(x), count = x.size();
    auto* codes = step.arena.template allocate<std::int32_t>(rows * Depth);
    R* total = step.arena.template allocate<R>(count);
    std::fill_n(total, count, R(0));
    Var<R, A> rest = x;
    auto loss = detail::known(step, 0);
    double error = 0;
    for (int d = 0; d < Depth; ++d) {
      const auto q = levels[d].quantize(step, rest);
      detail::spread_codes(rows, Depth, d, q.codes, codes);
      step.backend.copy(count, q.values.value(), Target<R>{total, true});
      loss = add(step, loss, q.loss);
      error = double(*q.error.value());
      if (d + 1 < Depth) rest = subtract(step, rest, fixed(q.values));  // the gradient of a level's loss reaches the encoder as it is
    }
    auto [values, nothing] = detail::pass_through(step, x, total, GradientEstimator::straight_through, step.scalar(0), 0);
    return Quantized<Var<R, A>, decltype(loss)>{values, codes, rows, loss, detail::known(step, error)};
  }
  template <Shape A, class S>
  auto lookup(S& step, const RowSpace* space, Shape shape, const std::int32_t* codes) const {
    using R = typename S::Real;
    auto total = step.template variable<A>(space, shape, false);
    std::fill_n(total.value(), total.size(), R(0));
    for (int d = 0; d < Depth; ++d) {
      const auto level = levels[d].template lookup<A>(step, space, shape, detail::codes_of_part(step, vector_count(total), Depth, d, codes));
      step.backend.copy(total.size(), level.value(), Target<R>{total.value(), true});
    }
    return total;
  }
};

template <int Width, class Q>
struct Projected {
  Conv2d<Width, 1> in{};
  Q quantizer{};
  Conv2d<dynamic, 1> out{};
  /// Batch normalisation between, with an initial weight of 0.851: for bounded quantizers, since then tanh makes normal numbers about
  /// evenly distributed between -1 and 1, and all levels are used from the first step on.
  bool normalise = false;
  BatchNorm norm{};

  int code_count() const { return quantizer.code_count(); }
  int per_vector() const { return quantizer.per_vector(); }
  [[gnu::cold]] void build(Shape shape) {
    in.build(shape);
    norm.build(in.output(shape));
    norm.weight.initial = constant(0.851f);
    quantizer.build(in.output(shape));
    out.out = shape.channels;
    out.build(in.output(shape));
  }
  void fields(auto&& f) {
    f("in", in);
    if (normalise) f("norm", norm);
    f("quantizer", quantizer);
    f("out", out);
  }

  template <class S, class R, Shape A>
  auto quantize(S& step, Var<R, A> x) const {
    auto narrow = in.forward(step, x);
    if (normalise) narrow = norm.forward(step, narrow);
    const auto q = quantizer.quantize(step, narrow);
    const Var<R, A> values{out.forward(step, q.values).node, x.shape};
    return Quantized<Var<R, A>, std::remove_cvref_t<decltype(q.loss)>>{values, q.codes, q.vectors, q.loss, q.error};
  }
  template <Shape A, class S>
  auto lookup(S& step, const RowSpace* space, Shape shape, const std::int32_t* codes) const {
    const Shape narrow = in.output(shape);
    const auto values = quantizer.template lookup<Shape{A.height, A.width, Width}>(step, space, narrow, codes);
    return Var<typename S::Real, A>{out.forward(step, values).node, shape};
  }
};

}  // namespace vaelib::inline VAELIB_ABI
