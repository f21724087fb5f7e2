// Scaled dot-product attention of two ragged inputs: the rows of each set of queries look at the rows of the same set of keys.
//
//   y_i = sum_j softmax_j(q_i . k_j / sqrt(width)) v_j      Vaswani et al. 2017, section 3.2.1
//
// One head. A set without keys gives zeros. The order of summation depends on the set alone, so that neither the other
// sets of the batch nor the number of threads changes a bit.
#pragma once

#include <vaelib/layers/linear.hpp>

namespace vaelib::inline VAELIB_ABI {

template <class S, class R, Shape Q, Shape V>
Var<R, V> attention(S& step, Var<R, Q> queries, Var<R, Q> keys, Var<R, V> values) {
  const RowSpace *from = queries.space(), *to = keys.space();
  if (keys.space() != values.space()) fail("vaelib: attention wants keys and values of one row space");
  if (queries.shape != keys.shape) fail("vaelib: attention wants queries and keys of one shape, found ", text_of(queries.shape), " and ", text_of(keys.shape));
  if (!from->offsets || !to->offsets || from->groups != to->groups)
    fail("vaelib: attention wants ragged rows of as many sets, found ", from->groups, " and ", to->groups);
  long weights = 0;
  long* places = step.arena.template allocate<long>(from->groups + 1);
  for (long g = 0; g < from->groups; ++g) {
    places[g] = weights;
    weights += (from->offsets[g + 1] - from->offsets[g]) * (to->offsets[g + 1] - to->offsets[g]);
  }
  R* softmax = step.arena.template allocate<R>(weights);
  const int width = int(queries.features()), out = int(values.features());
  auto y = step.template variable<V>(from, values.shape, step.needs_gradient(queries, keys, values));
  step.backend.attention(from->groups, from->offsets, to->offsets, places, width, out, queries.value(), keys.value(), values.value(), softmax, y.value());
  if (y.needs_gradient())
    step.record({y.node}, [=](S& s) {
      const auto q = s.target(queries), k = s.target(keys), v = s.target(values);
      s.backend.attention_gradient(from->groups, from->offsets, to->offsets, places, width, out, queries.value(), keys.value(), values.value(),
                                   softmax, s.gradient(y), q, k, v);
    });
  return y;
}

/// Attention with learned projections of queries, keys, values and output; Width features each.
template <int Width>
struct Attention {
  Linear<Width> query{}, key{}, value{}, output{};

  [[gnu::cold]] void build(Shape queries, Shape keys) {
    query.build(queries);
    key.build(keys);
    value.build(keys);
    output.build(Shape{Width});
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
    return output.forward(step, attention(step, query.forward(step, x), key.forward(step, y), value.forward(step, y)));
  }
};

}  // namespace vaelib::inline VAELIB_ABI
