// map and map_reduce: elementwise maths written once as a plain functor; its gradient is derived by dual numbers.
//
//   map(step, Swish{}, x)                          one operand
//   map(step, Add{}, x, y)                         several, of one row space and shape
//   map(step, Multiply{}, x, scale)                a Parameter with one number a channel (or a feature)
//   map_reduce(step, BernoulliNll{}, logits, fixed(target))     summed over the features of each row
//
// An operand in fixed() takes no gradient; a Scalar is one number for all.
#pragma once

#include <vaelib/autodiff/step.hpp>

#include <tuple>

namespace vaelib::inline VAELIB_ABI {

namespace detail {

template <class V>
struct Unwrapped {
  static constexpr bool is_variable = false;
};
template <class R, Shape S>
struct Unwrapped<Var<R, S>> {
  static constexpr bool is_variable = true;
  static constexpr Shape shape = S;
  static const Var<R, S>& get(const Var<R, S>& v) { return v; }
};
template <class V>
struct Unwrapped<Fixed<V>> : Unwrapped<V> {
  static const V& get(const Fixed<V>& f) { return f.variable; }
};

/// The first variable among operands: it gives the result its rows and shape.
template <class First, class... Rest>
auto leading_variable(const First& first, const Rest&... rest) {
  if constexpr (Unwrapped<First>::is_variable) {
    return Unwrapped<First>::get(first);
  } else {
    static_assert(sizeof...(Rest) > 0, "vaelib: map wants at least one variable");
    return leading_variable(rest...);
  }
}

template <class Leading, class Operand>
void check_operand(const Leading& leading, const Operand& operand) {
  if constexpr (Unwrapped<Operand>::is_variable) {
    const auto& v = Unwrapped<Operand>::get(operand);
    static_assert(agree(Leading::static_shape, Unwrapped<Operand>::shape), "vaelib: the variables of one map have different shapes");
    if (v.space() != leading.space())
      fail("vaelib: variables of different row spaces cannot be combined (", leading.rows(), " and ", v.rows(), " rows)");
    if (v.shape != leading.shape)
      fail("vaelib: variables of shapes ", text_of(leading.shape), " and ", text_of(v.shape), " cannot be combined");
  } else if constexpr (std::is_same_v<Operand, Parameter>) {
    if (operand.size() == 0 || leading.features() % operand.size() != 0)
      fail("vaelib: a parameter of ", operand.size(), " numbers does not fit samples of shape ", text_of(leading.shape));
  }
}

/// Columns of the matrix that map runs over: the length of its parameters, or else all features.
template <class Leading, class... Operands>
long columns_of(const Leading& leading, const Operands&... operands) {
  long columns = leading.features();
  const auto consider = [&](const auto& operand) {
    if constexpr (std::is_same_v<std::remove_cvref_t<decltype(operand)>, Parameter>) {
      if (columns != leading.features() && columns != operand.size()) fail("vaelib: the parameters of one map have different lengths");
      columns = operand.size();
    }
  };
  (consider(operands), ...);
  return columns;
}

template <bool WithTargets, class S, class Operand>
auto operand_of(S& step, const Operand& operand) {
  using Real = typename S::Real;
  if constexpr (is_variable<Operand>) {
    return Full<Real>{operand.value(), WithTargets ? step.target(operand) : Target<Real>{}};
  } else if constexpr (std::is_same_v<Operand, Parameter>) {
    return PerColumn<Real>{step.value(operand), WithTargets ? step.target(operand) : Target<Real>{}};
  } else if constexpr (Unwrapped<Operand>::is_variable) {
    return Given<Real>{operand.variable.value()};
  } else {
    static_assert(std::is_same_v<Operand, Scalar<Real>>, "vaelib: map takes variables, fixed() variables, Parameters and Scalars");
    return Single<Real>{operand.value};
  }
}

}  // namespace detail

/// map for variables of few numbers, such as the terms of a loss: no vectorised loop is compiled for them.
template <class S, class F, class... Operands>
auto map_few(S& step, F f, const Operands&... operands) {
  const auto x = detail::leading_variable(operands...);
  (detail::check_operand(x, operands), ...);
  const long count = x.size();
  auto y = step.template variable<decltype(x)::static_shape>(x.space(), x.shape, step.needs_gradient(operands...));
  step.backend.map_few(f, count, y.value(), detail::operand_of<false>(step, operands)...);
  if (y.needs_gradient())
    step.record({y.node}, [=](S& s) {
      std::apply([&](auto... o) { s.backend.map_few_gradient(f, count, s.gradient(y), o...); },
                 std::tuple{detail::operand_of<true>(s, operands)...});
    });
  return y;
}

/// out = f(operands...) for each element.
template <class S, class F, class... Operands>
auto map(S& step, F f, const Operands&... operands) {
  const auto x = detail::leading_variable(operands...);
  (detail::check_operand(x, operands), ...);
  const long columns = detail::columns_of(x, operands...), rows = columns == 0 ? 0 : x.size() / columns;
  auto y = step.template variable<decltype(x)::static_shape>(x.space(), x.shape, step.needs_gradient(operands...));
  step.backend.map(f, rows, columns, y.value(), detail::operand_of<false>(step, operands)...);
  if (y.needs_gradient())
    step.record({y.node}, [=](S& s) {
      // braces: targets are taken from left to right, as one variable may stand in several places
      std::apply([&](auto... o) { s.backend.map_gradient(f, rows, columns, s.gradient(y), o...); },
                 std::tuple{detail::operand_of<true>(s, operands)...});
    });
  return y;
}

/// The sum of f(operands...) over the features of each row: rows x 1.
template <class S, class F, class... Operands>
auto map_reduce(S& step, F f, const Operands&... operands) {
  static_assert((!std::is_same_v<Operands, Parameter> && ...), "vaelib: map_reduce takes no Parameters; combine them by map first");
  const auto x = detail::leading_variable(operands...);
  (detail::check_operand(x, operands), ...);
  auto y = step.template variable<Shape{1}>(x.space(), Shape{1}, step.needs_gradient(operands...));
  step.backend.map_reduce(f, x.rows(), x.features(), y.value(), detail::operand_of<false>(step, operands)...);
  if (y.needs_gradient())
    step.record({y.node}, [=](S& s) {
      std::apply([&](auto... o) { s.backend.map_reduce_gradient(f, x.rows(), x.features(), s.gradient(y), o...); },
                 std::tuple{detail::operand_of<true>(s, operands)...});
    });
  return y;
}

}  // namespace vaelib::inline VAELIB_ABI
