// Operations on whole variables: sums, means, columns, arithmetic. Losses are made of them.
#pragma once

#include <vaelib/autodiff/map.hpp>
#include <vaelib/core/functors.hpp>

namespace vaelib::inline VAELIB_ABI {

template <class S, class X, class Y>
auto add(S& step, const X& x, const Y& y) {
  return map(step, Add{}, x, y);
}
template <class S, class X, class Y>
auto subtract(S& step, const X& x, const Y& y) {
  return map(step, Subtract{}, x, y);
}
template <class S, class X, class Y>
auto multiply(S& step, const X& x, const Y& y) {
  return map(step, Multiply{}, x, y);
}

namespace detail {
template <class S, class R>
Node<R>* mean_rows(S& step, Node<R>* x) {
  const long rows = x->space->count, features = x->features;
  auto* y = step.node(step.single(), features, step.needs_gradient(x));
  const double scale = rows > 0 ? 1.0 / double(rows) : 0.0;
  if (features == 1) {
    step.backend.sum_rows_exactly(rows, features, x->value, scale, y->value);
  } else {
    step.backend.sum_rows(rows, features, x->value, R(scale), {y->value});
  }
  if (y->needs_gradient)
    step.record({y}, [=](S& s) {
      if (auto t = s.target(x)) s.backend.spread_rows(rows, features, y->gradient, R(scale), t);
    });
  return y;
}

template <class S, class R>
Node<R>* sum_few(S& step, Node<R>* x) {
  const long rows = x->space->count, features = x->features;
  auto* y = step.node(x->space, 1, step.needs_gradient(x));
  step.backend.sum_few(rows, features, x->value, y->value);
  if (y->needs_gradient)
    step.record({y}, [=](S& s) {
      if (auto t = s.target(x)) s.backend.sum_few_gradient(rows, features, y->gradient, t);
    });
  return y;
}

template <class S, class R>
Node<R>* columns(S& step, Node<R>* x, int first, int narrow) {
  const long rows = x->space->count, wide = x->features;
  if (first < 0 || first + narrow > wide)
    fail("vaelib: columns ", first, " to ", first + narrow - 1, " of a variable of ", wide, " features");
  auto* y = step.node(x->space, narrow, step.needs_gradient(x));
  step.backend.copy_columns(rows, narrow, x->value + first, wide, y->value, narrow, false);
  if (y->needs_gradient)
    step.record({y}, [=](S& s) {
      auto t = s.target(x);
      if (!t) return;
      if (!t.add) std::fill_n(t.data, rows * wide, R(0));
      s.backend.copy_columns(rows, narrow, y->gradient, narrow, t.data + first, wide, true);
    });
  return y;
}

template <class S, class R>
Node<R>* concatenate(S& step, Node<R>* a, Node<R>* b) {
  const long rows = a->space->count, first = a->features, second = b->features, wide = first + second;
  if (a->space != b->space)
    fail("vaelib: variables of different row spaces cannot be joined (", rows, " and ", b->space->count, " rows)");
  auto* y = step.node(a->space, wide, step.needs_gradient(a, b));
  step.backend.copy_columns(rows, first, a->value, first, y->value, wide, false);
  step.backend.copy_columns(rows, second, b->value, second, y->value + first, wide, false);
  if (y->needs_gradient)
    step.record({y}, [=](S& s) {
      if (auto t = s.target(a)) s.backend.copy_columns(rows, first, y->gradient, wide, t.data, first, t.add);
      if (auto t = s.target(b)) s.backend.copy_columns(rows, second, y->gradient + first, wide, t.data, second, t.add);
    });
  return y;
}
}  // namespace detail

/// Mean over the rows, one row of the same shape. Summed in double where rows are single numbers, as losses are.
template <class S, class R, Shape A>
Var<R, A> mean_rows(S& step, Var<R, A> x) {
  return {detail::mean_rows(step, x.node), x.shape};
}

/// Sum over the features: rows x 1.
template <class S, class V>
auto sum_features(S& step, V x) {
  return map_reduce(step, Identity{}, x);
}

/// The same for variables of few numbers, such as the terms of a loss.
template <class S, class R, Shape A>
Var<R, Shape{1}> sum_few(S& step, Var<R, A> x) {
  return {detail::sum_few(step, x.node), Shape{1}};
}

/// The same rows seen in another shape of as many features; nothing is copied.
template <Shape To, class R, Shape A>
Var<R, To> view(Var<R, A> x, Shape to = To) {
  static_assert(agree(A.size(), To.size()), "vaelib: a view has as many features as what it looks at");
  if (to.size() != x.features()) fail("vaelib: ", x.features(), " features cannot be seen as shape ", text_of(to));
  return {x.node, to};
}

/// Features [first, first + count) of a flat variable.
template <Shape To, class S, class R, Shape A>
Var<R, To> columns(S& step, Var<R, A> x, int first, Shape to = To) {
  static_assert(A.is_flat() && To.is_flat(), "vaelib: columns takes a flat variable; put Flatten before it");
  return {detail::columns(step, x.node, first, to.size()), to};
}

constexpr Shape joined(Shape a, Shape b) {
  return a.channels == dynamic || b.channels == dynamic ? Shape{dynamic} : Shape{a.channels + b.channels};
}
/// The features of two flat variables side by side.
template <class S, class R, Shape A, Shape B>
auto concatenate(S& step, Var<R, A> a, Var<R, B> b) {
  static_assert(A.is_flat() && B.is_flat(), "vaelib: concatenate takes flat variables; put Flatten before it");
  return Var<R, joined(A, B)>{detail::concatenate(step, a.node, b.node), Shape{int(a.features() + b.features())}};
}

/// Standard normal numbers, rows x shape; they take no gradient.
template <Shape A, class S>
auto standard_normal(S& step, const RowSpace* space, Shape shape = A) {
  auto y = step.template variable<A>(space, shape, false);
  step.backend.normal(step.next_key(), space->first, space->count, shape.size(), y.value());
  return y;
}

}  // namespace vaelib::inline VAELIB_ABI
