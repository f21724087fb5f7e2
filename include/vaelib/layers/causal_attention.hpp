// Causal self-attention: each row of a sequence looks at itself and the rows before it, by several heads.
//
//   y_i = W_o [sum over j <= i of softmax_j(q_i . k_j / sqrt(width / heads)) v_j, head by head] + b_o
//   q, k, v = x W_q + b_q, x W_k + b_k, x W_v + b_v; a head has width / heads of their features
//
// Vaswani et al. 2017, section 3.2. The sequences are ragged rows (core/rows.hpp), of any lengths: sequences() makes
// those of one length. The order of summation of a row depends on those before it alone, so that nothing that comes
// later, no other sequence and no number of threads changes a bit.
#pragma once

#include <vaelib/backend/host_sequences.hpp>
#include <vaelib/layers/linear.hpp>

#include <numeric>

namespace vaelib::inline VAELIB_ABI {

/// A row space of `count` sequences of `length` rows; `first` is the number of the first sequence in the global batch.
template <class S>
const RowSpace* sequences(S& step, long count, long length, long first = 0) {
  long* offsets = step.arena.template allocate<long>(count + 1);
  for (long g = 0; g <= count; ++g) offsets[g] = g * length;
  return step.ragged(count, offsets, first * length);
}

namespace detail {
template <class S, class R>
Node<R>* causal_attention(S& step, Node<R>* q, Node<R>* k, Node<R>* v, int heads) {
  const RowSpace* space = q->space;
  if (!space->offsets)
    fail("vaelib: causal attention takes ragged rows, one set a sequence; found ", space->count, " plain rows");
  const long groups = space->groups;
  const CausalRows rows{space->offsets, space->offsets + 1, space->offsets, space->offsets + 1};
  const int width = int(q->features) / heads;
  long weights = 0, longest = 0;
  long* places = step.arena.template allocate<long>(groups + 1);
  for (long g = 0; g < groups; ++g) {
    places[g] = weights;
    weights += heads * rows.queries(g) * rows.line(g);
    longest = std::max(longest, rows.line(g));
  }
  R* softmax = step.arena.template allocate<R>(weights);
  const long room = longest * width;
  auto* y = step.node(space, q->features, step.needs_gradient(q, k, v));
  step.backend.causal_attention(groups, rows, heads, width, places, q->value, k->value, v->value, softmax, y->value,
                                step.scratch(groups * heads * room).data, room);
  if (y->needs_gradient)
    step.record({y}, [=](S& s) {
      const auto to_q = s.target(q), to_k = s.target(k), to_v = s.target(v);
      const long with_slopes = room + longest * longest;
      const auto scratch = s.scratch(groups * heads * with_slopes);
      s.backend.causal_attention_gradient(groups, rows, heads, width, places, q->value, k->value, v->value, softmax,
                                          y->value, y->gradient, to_q, to_k, to_v, scratch.data, with_slopes);
    });
  return y;
}
}  // namespace detail

/// Keys and values of the rows so far, for sequences of at most `length` rows that are continued by one row at a time.
template <class R>
struct KeysAndValues {
  R *keys, *values;  ///< sequences x length x width
  long length;
};

template <int Width>
struct CausalSelfAttention {
  [[no_unique_address]] Extent<Width> width{};
  int heads = 1;
  Linear<Width> query{}, key{}, value{}, projection{};

  static constexpr bool accepts(Shape in) { return in.is_flat(); }
  constexpr Shape output(Shape) const { return {int(width)}; }

  [[gnu::cold]] void build(Shape in) {
    if (heads < 1 || width % heads != 0)
      fail("vaelib: attention of ", int(width), " features cannot have ", heads, " heads of one width");
    if constexpr (Width == dynamic) query.out = key.out = value.out = projection.out = width;
    for (auto* linear : {&query, &key, &value}) linear->build(in);
    projection.build(Shape{int(width)});
  }
  void fields(auto&& f) {
    f("query", query);
    f("key", key);
    f("value", value);
    f("projection", projection);
  }
  template <class S, class V>
  auto forward(S& step, V x) const {
    const auto q = query.forward(step, x), k = key.forward(step, x), v = value.forward(step, x);
    const decltype(q) y{detail::causal_attention(step, q.node, k.node, v.node, heads), q.shape};
    return projection.forward(step, y);
  }

  /// Room for `sequences` of at most `length` rows, in memory of the step.
  template <class S>
  auto memory(S& step, long sequences, long length) const {
    using R = typename S::Real;
    const long size = sequences * length * width;
    return KeysAndValues<R>{step.arena.template allocate<R>(size), step.arena.template allocate<R>(size), length};
  }
  /// Row `place` of each sequence (plain rows, one a sequence), given the memory of those before, to which it is added:
  /// the bits of forward on the whole sequences. Takes no gradient.
  template <class S, class V, class R>
  auto next(S& step, V x, const KeysAndValues<R>& memory, long place) const {
    const auto q = query.forward(step, x), k = key.forward(step, x), v = value.forward(step, x);
    const long count = x.rows(), row = long(width), sequence = memory.length * row;
    step.backend.copy_columns(count, row, k.value(), row, memory.keys + place * row, sequence, false);
    step.backend.copy_columns(count, row, v.value(), row, memory.values + place * row, sequence, false);
    long* const index = step.arena.template allocate<long>(4 * count + 1);
    long *const queries = index, *const begin = index + count + 1, *const end = begin + count,
                *const places = end + count;
    const CausalRows rows{queries, queries + 1, begin, end};
    for (long g = 0; g < count; ++g) {
      begin[g] = g * memory.length;
      end[g] = begin[g] + place + 1;
      places[g] = g * heads * rows.line(0);
    }
    std::iota(queries, queries + count + 1, 0L);
    const long line = count > 0 ? rows.line(0) : 0, room = line * row / heads;
    R* softmax = step.arena.template allocate<R>(count * heads * line);
    const auto y = step.template variable<Shape{Width}>(x.space(), q.shape, false);
    step.backend.causal_attention(count, rows, heads, int(row) / heads, places, q.value(), memory.keys, memory.values,
                                  softmax, y.value(), step.scratch(count * heads * room).data, room);
    return projection.forward(step, y);
  }
};

}  // namespace vaelib::inline VAELIB_ABI
