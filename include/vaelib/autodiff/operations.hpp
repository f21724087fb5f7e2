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

/// Mean over the rows, one row of the same shape. Summed in double where rows are single numbers, as losses are.
template <class S, class R, Shape A>
Var<R, A> mean_rows(S& step, Var<R, A> x) {
  auto y = step.template variable<A>(step.single(), x.shape, step.needs_gradient(x));
  const double scale = x.rows() > 0 ? 1.0 / double(x.rows()) : 0.0;
  if (x.features() == 1) {
    step.backend.sum_rows_exactly(x.rows(), x.features(), x.value(), scale, y.value());
  } else {
    step.backend.sum_rows(x.rows(), x.features(), x.value(), R(scale), y.value());
  }
  if (y.needs_gradient())
    step.record({y.node}, [=](S& s) {
      if (auto t = s.target(x)) s.backend.spread_rows(x.rows(), x.features(), s.gradient(y), R(scale), t);
    });
  return y;
}

/// Sum over the features: rows x 1.
template <class S, class V>
auto sum_features(S& step, V x) {
  return map_reduce(step, Identity{}, x);
}

/// The same for variables of few numbers, such as the terms of a loss.
template <class S, class R, Shape A>
Var<R, Shape{1}> sum_few(S& step, Var<R, A> x) {
  auto y = step.template variable<Shape{1}>(x.space(), Shape{1}, step.needs_gradient(x));
  const long rows = x.rows(), features = x.features();
  for (long r = 0; r < rows; ++r) {
    double sum = 0;
    for (long j = 0; j < features; ++j) sum += x.value()[r * features + j];
    y.value()[r] = R(sum);
  }
  if (y.needs_gradient())
    step.record({y.node}, [=](S& s) {
      const auto t = s.target(x);
      for (long i = 0; t && i < rows * features; ++i) t.data[i] = (t.add ? t.data[i] : R(0)) + s.gradient(y)[i / features];
    });
  return y;
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
  if (first < 0 || first + to.size() > x.features())
    fail("vaelib: columns ", first, " to ", first + to.size() - 1, " of a variable of ", x.features(), " features");
  auto y = step.template variable<To>(x.space(), to, step.needs_gradient(x));
  const long rows = x.rows(), wide = x.features(), narrow = to.size();
  step.backend.copy_columns(rows, narrow, x.value() + first, wide, y.value(), narrow, false);
  if (y.needs_gradient())
    step.record({y.node}, [=](S& s) {
      auto t = s.target(x);
      if (!t) return;
      if (!t.add) std::fill_n(t.data, rows * wide, R(0));
      s.backend.copy_columns(rows, narrow, s.gradient(y), narrow, t.data + first, wide, true);
    });
  return y;
}

constexpr Shape joined(Shape a, Shape b) {
  return a.channels == dynamic || b.channels == dynamic ? Shape{dynamic} : Shape{a.channels + b.channels};
}
/// The features of two flat variables side by side.
template <class S, class R, Shape A, Shape B>
auto concatenate(S& step, Var<R, A> a, Var<R, B> b) {
  static_assert(A.is_flat() && B.is_flat(), "vaelib: concatenate takes flat variables; put Flatten before it");
  if (a.space() != b.space()) fail("vaelib: variables of different row spaces cannot be joined (", a.rows(), " and ", b.rows(), " rows)");
  const long rows = a.rows(), first = a.features(), second = b.features(), wide = first + second;
  auto y = step.template variable<joined(A, B)>(a.space(), Shape{int(wide)}, step.needs_gradient(a, b));
  step.backend.copy_columns(rows, first, a.value(), first, y.value(), wide, false);
  step.backend.copy_columns(rows, second, b.value(), second, y.value() + first, wide, false);
  if (y.needs_gradient())
    step.record({y.node}, [=](S& s) {
      if (auto t = s.target(a)) s.backend.copy_columns(rows, first, s.gradient(y), wide, t.data, first, t.add);
      if (auto t = s.target(b)) s.backend.copy_columns(rows, second, s.gradient(y) + first, wide, t.data, second, t.add);
    });
  return y;
}

/// Standard normal numbers, rows x shape; they take no gradient.
template <Shape A, class S>
auto standard_normal(S& step, const RowSpace* space, Shape shape = A) {
  auto y = step.template variable<A>(space, shape, false);
  step.backend.normal(step.next_key(), space->first, space->count, shape.size(), y.value());
  return y;
}

}  // namespace vaelib::inline VAELIB_ABI
