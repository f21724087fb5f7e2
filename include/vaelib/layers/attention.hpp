// Attention of several heads: the rows of each set of queries look at the rows of the same set of keys.
//
//   over keys    y_i = sum_j softmax_j(q_i . k_j / sqrt(width / heads)) v_j      Vaswani et al. 2017, section 3.2
//   over slots   w_ij = softmax_i(q_i . k_j / sqrt(width / heads)),   y_i = sum_j w_ij v_j / sum_j w_ij
//                Locatello et al. 2020, "Object-centric learning with slot attention"; Kim et al. 2021, "SetVAE"
//
// head by head, on ragged rows (core/rows.hpp): as many sets of queries as of keys, of any sizes. A set without keys
// gives zeros. No matrix of weights is kept: see backend/attention.hpp. What a set gives depends on its own rows alone:
// neither the other sets of the batch nor the number of threads changes a bit of it.
#pragma once

#include <vaelib/backend/slot_attention.hpp>
#include <vaelib/layers/spectral_norm.hpp>
#include <vaelib/layers/table_attention.hpp>

namespace vaelib::inline VAELIB_ABI {

/// What the weights of an attention are normalised over.
enum class Over { keys, slots };

namespace detail {

template <class R>
AttentionRows attention_rows(const Node<R>* q, const Node<R>* k, const Node<R>* v, Shape queries, Shape keys,
                             int heads) {
  const RowSpace *from = q->space, *to = k->space;
  if (to != v->space) fail("vaelib: attention wants keys and values of one row space");
  if (queries != keys)
    fail("vaelib: attention wants queries and keys of one shape, found ", text_of(queries), " and ", text_of(keys));
  if (!from->offsets || !to->offsets || from->groups != to->groups)
    fail("vaelib: attention wants ragged rows of as many sets, found ", from->groups, " and ", to->groups);
  if (heads < 1 || q->features % heads != 0 || v->features % heads != 0)
    fail("vaelib: attention of ", q->features, " features, values of ", v->features, ", cannot have ", heads,
         " heads of one width");
  return {from->groups, from->offsets, to->offsets, heads, int(q->features) / heads, int(v->features) / heads};
}

template <class S, class R>
Node<R>* attention_over_keys(S& step, const AttentionRows& rows, Node<R>* q, Node<R>* k, Node<R>* v) {
  auto* y = step.node(q->space, v->features, step.needs_gradient(q, k, v));
  R* sums = step.arena.template allocate<R>(q->space->count * rows.heads);
  attention(step.backend, rows, q->value, k->value, v->value, y->value, sums,
            step.scratch(rows.parts() * attention_room(rows)).data);
  if (y->needs_gradient)
    step.record({y}, [=](S& s) {
      const auto to_q = s.target(q), to_k = s.target(k), to_v = s.target(v);
      attention_gradient(s.backend, rows, q->value, k->value, v->value, y->value, sums, y->gradient, to_q, to_k, to_v,
                         s.scratch(rows.parts() * attention_gradient_room(rows)).data);
    });
  return y;
}

template <class S, class R>
Node<R>* attention_over_slots(S& step, const AttentionRows& rows, Node<R>* q, Node<R>* k, Node<R>* v) {
  auto* y = step.node(q->space, v->features, step.needs_gradient(q, k, v));
  R* sums = step.arena.template allocate<R>(q->space->count * rows.heads);
  long most = 0;
  for (long g = 0; g < rows.groups; ++g) most = std::max(most, rows.from[g + 1] - rows.from[g]);
  slot_attention(step.backend, rows, most, q->value, k->value, v->value, y->value, sums,
                 step.scratch(rows.parts() * slot_attention_room(rows, most)).data);
  if (y->needs_gradient)
    step.record({y}, [=](S& s) {
      const auto to_q = s.target(q), to_k = s.target(k), to_v = s.target(v);
      slot_attention_gradient(s.backend, rows, most, q->value, k->value, v->value, y->value, sums, y->gradient, to_q,
                              to_k, to_v, s.scratch(rows.parts() * slot_attention_gradient_room(rows, most)).data);
    });
  return y;
}

}  // namespace detail

/// See the head of this file. Rows of heads * width features; those of the values may be as many others.
template <Over What = Over::keys, class S, class R, Shape Q, Shape V>
Var<R, V> attention(S& step, Var<R, Q> queries, Var<R, Q> keys, Var<R, V> values, int heads = 1) {
  const AttentionRows rows =
      detail::attention_rows(queries.node, keys.node, values.node, queries.shape, keys.shape, heads);
  if constexpr (What == Over::keys) {
    return {detail::attention_over_keys(step, rows, queries.node, keys.node, values.node), values.shape};
  } else {
    return {detail::attention_over_slots(step, rows, queries.node, keys.node, values.node), values.shape};
  }
}

/// output(attention(query(x), key(y), value(y))): x, the rows that look, y, those looked at, to rows of Width features.
/// Width or Heads may be dynamic. `spectral`: all four with spectral normalisation.
template <int Width, int Heads = 1, Over What = Over::keys>
struct MultiHeadAttention {
  static_assert(Heads == dynamic || Heads > 0, "vaelib: an attention has at least one head");
  static_assert(Width == dynamic || Heads == dynamic || Width % Heads == 0,
                "vaelib: the number of heads of an attention must divide its width");
  [[no_unique_address]] Extent<Width> width{};
  [[no_unique_address]] Extent<Heads> heads{};
  bool spectral = false;
  SpectralNorm<Linear<Width>> query{}, key{}, value{}, output{};

  [[gnu::cold]] void build(Shape x, Shape y) {
    if (width < 1 || heads < 1 || width % heads != 0)
      fail("vaelib: attention of ", int(width), " features cannot have ", int(heads), " heads of one width");
    for (auto* linear : {&query, &key, &value, &output}) {
      linear->on = spectral;
      if constexpr (Width == dynamic) linear->layer.out = width;
    }
    query.build(x);
    key.build(y);
    value.build(y);
    output.build(Shape{int(width)});
  }
  void fields(auto&& f) {
    f("query", query);
    f("key", key);
    f("value", value);
    f("output", output);
  }
  template <class S, class X, class Y>
  auto operator()(S& step, X x, Y y) const {
    static_assert(X::static_shape.is_flat() && Y::static_shape.is_flat(), "vaelib: attention takes flat rows");
    using Rows = decltype(query.forward(step, x));
    const RowSpace *from = x.space(), *to = y.space();
    if (!spectral && from->groups == to->groups && from != to) {  // tables are made of the weights as they are
      if (detail::worth_tables(from->each, heads, width)) {
        const auto softmax = What == Over::keys ? TableSoftmax::over_points : TableSoftmax::over_slots;
        const auto q = query.forward(step, x);
        return output.forward(step, Rows{detail::few_queries(step, softmax, heads, q.node, y.node, key.layer, value.layer), q.shape});
      }
      if constexpr (What == Over::keys)
        if (detail::worth_tables(to->each, heads, width)) {
          const auto k = key.forward(step, y), v = value.forward(step, y);
          return Rows{detail::few_keys(step, heads, x.node, k.node, v.node, query.layer, output.layer), k.shape};
        }
    }
    const auto q = query.forward(step, x), k = key.forward(step, y), v = value.forward(step, y);
    return output.forward(step, attention<What>(step, q, k, v, heads));
  }
};

}  // namespace vaelib::inline VAELIB_ABI
