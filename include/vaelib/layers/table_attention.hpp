// Attention of several heads where one side has few rows a set, as inducing points are: the same numbers as
// layers/attention.hpp but for rounding, in another order of products. For head h, and queries x, keys and values y:
//
//   few queries    (x W_q) . (y W_k) = ((x W_q) W_k') . y    and    sum_j p_j (y_j W_v) = (sum_j p_j y_j) W_v
//   few keys       (x W_q) . (y W_k) = x . ((y W_k) W_q')    and    (sum_j p_j (y_j W_v)) W_o = sum_j p_j ((y_j W_v) W_o)
//
// so that the rows of the long side meet tables of heads x T rows instead of two matrices of weights. With T rows a set
// and H heads that is less work where T (H - 1) is less than the width, and no queries, keys or values of the long side
// are ever in memory. (DeepSeek-AI 2024, "DeepSeek-V2", section 2.1.2, absorbs weights alike.)
#pragma once

#include <vaelib/backend/table_attention.hpp>
#include <vaelib/layers/linear.hpp>

namespace vaelib::inline VAELIB_ABI {
namespace detail {

/// Where the matrix of a head lies: element (i, j) of head h at h * head + i * row + j * step.
struct HeadPlaces {
  long head, row, step;
  HeadPlaces turned() const { return {head, step, row}; }
};

/// C_h = or += A_h B_h for each head, m x n of depth k.
template <class S, class R>
void head_products(S& step, int heads, long m, int n, long k, const R* a, HeadPlaces a_at, const R* b, HeadPlaces b_at,
                   R* c, HeadPlaces c_at, bool add) {
  const bool whole = c_at.row == n;
  const auto scratch = step.scratch(whole ? 0 : m * n);
  for (int h = 0; h < heads; ++h) {
    R* const to = c + h * c_at.head;
    step.backend.product(m, n, k, {a + h * a_at.head, a_at.row, a_at.step}, {b + h * b_at.head, b_at.row, b_at.step},
                         whole ? to : scratch.data, whole && add);
    if (!whole) step.backend.copy_columns(m, n, scratch.data, n, to, c_at.row, add);
  }
}

/// y_h = x_h W_h, rows x `in` by `in` x `out`; x_h and y_h have their numbers of a row side by side, so has W_h or its
/// transpose.
struct HeadProduct {
  int heads;
  long rows;
  int in, out;
  HeadPlaces x, weight, y;

  template <class S, class R>
  Node<R>* operator()(S& step, const RowSpace* space, long features, Node<R>* from, const Parameter& w) const {
    auto* to = step.node(space, features, step.needs_gradient(from, w));
    head_products(step, heads, rows, out, in, from->value, x, step.value(w), weight, to->value, y, false);
    if (to->needs_gradient)
      step.record({to}, [p = *this, from, to, w](S& s) {
        const R* const slope = to->gradient;
        if (auto t = s.target(w)) {
          if (p.weight.step == 1) {
            head_products(s, p.heads, p.in, p.out, p.rows, from->value, p.x.turned(), slope, p.y, t.data, p.weight,
                          t.add);
          } else {
            head_products(s, p.heads, p.out, p.in, p.rows, slope, p.y.turned(), from->value, p.x, t.data,
                          p.weight.turned(), t.add);
          }
        }
        if (auto t = s.target(from))
          head_products(s, p.heads, p.rows, p.in, p.out, slope, p.y, s.value(w), p.weight.turned(), t.data, p.x, t.add);
      });
    return to;
  }
};

/// Tables of the rows of a few: t_h = q_h W_h' and c_h = q_h . b_h, where q = few W + b is to meet rows x W + b: to get
/// (q_h) . (x W + b)_h from t_h . x + c_h.
template <class R>
struct Table {
  Node<R>*rows, *constants;
};
template <class S, class R>
Table<R> table_of(S& step, int heads, Node<R>* q, const Parameter& weight, const Parameter& bias) {
  const int in = weight.extents[0], width = weight.extents[1], part = width / heads;
  const long count = q->space->count;
  const RowSpace* space = step.rows(heads * count);
  const HeadPlaces x{part, width, 1};
  return {HeadProduct{heads, count, part, in, x, {part, 1, width}, {count * in, in, 1}}(step, space, in, q, weight),
          HeadProduct{heads, count, part, 1, x, {part, 1, 1}, {count, 1, 1}}(step, space, 1, q, bias)};
}

/// y += b in the rows of the sets that have points: an attention to nothing is zero.
template <class S, class R>
Node<R>* add_bias_to_sets(S& step, Node<R>* x, const Parameter& bias, const RowSpace* points) {
  const long width = x->features, size = x->space->each * width;
  const long *offsets = points->offsets, groups = points->groups;
  auto* y = step.node(x->space, width, step.needs_gradient(x, bias));
  const R* const b = step.value(bias);
  step.backend.parallel(groups, [=](long g) {
    const R some = offsets[g + 1] > offsets[g];
    for (long i = g * size; i < (g + 1) * size; i += width)
      for (long j = 0; j < width; ++j) y->value[i + j] = x->value[i + j] + some * b[j];
  });
  if (y->needs_gradient)
    step.record({y}, [=](S& s) {
      if (auto t = s.target(x)) s.backend.copy(y->size(), y->gradient, t);
      const auto t = s.target(bias);
      if (!t) return;
      if (!t.add) std::fill_n(t.data, width, R(0));
      for (long g = 0; g < groups; ++g)
        for (long i = g * size; i < (g + 1) * size && offsets[g + 1] > offsets[g]; i += width)
          for (long j = 0; j < width; ++j) t.data[j] += y->gradient[i + j];
    });
  return y;
}

/// What points give to a table: rows of it with the features of a point, head by head. The other way u is given: rows
/// of points, plus b.
template <class S, class R>
Node<R>* attend(S& step, TableSoftmax softmax, int heads, int slots, R width, Node<R>* x, Table<R> t, Node<R>* u,
                const Parameter* bias) {
  const RowSpace* points = x->space;
  const TableAttention a{softmax, points->groups,   points->offsets,          heads,
                         slots,   int(x->features), u ? int(u->features) : 0, float(width)};
  Node<R>* const y = u ? step.node(points, a.out, step.needs_gradient(x, t.rows, t.constants, u, *bias))
                       : step.node(t.rows->space, a.in, step.needs_gradient(x, t.rows, t.constants));
  R* weights = step.arena.template allocate<R>(a.weights(a.groups));
  R* shares = step.arena.template allocate<R>(t.rows->space->count);
  const long parts = std::min(a.groups, 64L);
  table_attention(step.backend, a, x->value, t.rows->value, t.constants->value, u ? u->value : nullptr,
                  bias ? step.value(*bias) : nullptr, y->value, weights, shares,
                  step.scratch(parts * table_attention_room(a)).data);
  if (y->needs_gradient)
    step.record({y}, [=, p = bias ? *bias : Parameter{}](S& s) {
      if (u)
        if (auto target = s.target(p)) s.backend.sum_rows(points->count, a.out, y->gradient, 1, target);
      const auto to_x = s.target(x), to_t = s.target(t.rows), to_c = s.target(t.constants),
                 to_u = u ? s.target(u) : Target<R>{};
      table_attention_gradient(s.backend, a, x->value, t.rows->value, u ? u->value : nullptr, y->value, y->gradient,
                               weights, shares, to_x, to_t, to_c, to_u,
                               s.scratch(parts * table_attention_gradient_room(a)).data);
    });
  return y;
}

/// Whether tables of `slots` rows a set and head are less work than products of each point with weights of width x
/// width.
inline bool worth_tables(int slots, int heads, int width) { return slots > 0 && long(slots) * (heads - 1) <= width; }

/// The rows of attention(query(x), key(y), value(y)), before its last product: few queries look at points.
template <class S, class R>
Node<R>* few_queries(S& step, TableSoftmax softmax, int heads, Node<R>* q, Node<R>* y, const auto& key,
                     const auto& value) {
  const int in = value.weight.extents[0], width = value.weight.extents[1], part = width / heads;
  const long count = q->space->count;
  auto* const sums = attend(step, softmax, heads, q->space->each, R(part), y,
                            table_of(step, heads, q, key.weight, key.bias), static_cast<Node<R>*>(nullptr), nullptr);
  auto* const values = HeadProduct{heads, count, in, part, {count * in, in, 1}, {part, width, 1}, {part, width, 1}}(
      step, q->space, width, sums, value.weight);
  return add_bias_to_sets(step, values, value.bias, y->space);
}

/// output(attention(query(x), k, v)): points look at few keys.
template <class S, class R>
Node<R>* few_keys(S& step, int heads, Node<R>* x, Node<R>* k, Node<R>* v, const auto& query, const auto& output) {
  const int width = output.weight.extents[0], out = output.weight.extents[1], part = width / heads;
  const long count = v->space->count;
  auto* const u =
      HeadProduct{heads, count, part, out, {part, width, 1}, {long(part) * out, out, 1}, {count * out, out, 1}}(
          step, step.rows(heads * count), out, v, output.weight);
  return attend(step, TableSoftmax::to_points, heads, k->space->each, R(part), x,
                table_of(step, heads, k, query.weight, query.bias), u, &output.bias);
}

}  // namespace detail
}  // namespace vaelib::inline VAELIB_ABI
