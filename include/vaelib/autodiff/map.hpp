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

namespace vaelib::inline VAELIB_ABI {

namespace detail {

/// An operand without its shape: the loops and records behind map know nothing of shapes, so that one serves them all.
template <class R, Shape S>
Node<R>* operand_of(const Var<R, S>& v) {
  return v.node;
}
template <class R, Shape S>
Given<R> operand_of(const Fixed<Var<R, S>>& f) {
  return {f.variable.value()};
}
inline Parameter operand_of(const Parameter& p) { return p; }
template <class R>
Single<R> operand_of(const Scalar<R>& s) {
  return {s.value};
}

/// The same as a backend sees it; in the backward pass with the place of its gradient.
template <bool WithTargets, class S, class O>
auto backend_operand(S& step, const O& operand) {
  using Real = typename S::Real;
  if constexpr (std::is_same_v<O, Node<Real>*>) {
    return Full<Real>{operand->value, WithTargets ? step.target(operand) : Target<Real>{}};
  } else if constexpr (std::is_same_v<O, Parameter>) {
    return PerColumn<Real>{step.value(operand), WithTargets ? step.target(operand) : Target<Real>{}};
  } else {
    return operand;
  }
}
/// Calls f(arguments...). Written with braces, so that the arguments are worked out from left to right: one variable may
/// stand in several places, and the first of its gradients is written, the others are added.
struct InOrder {
  template <class F, class... Arguments>
  InOrder(const F& f, const Arguments&... arguments) {
    f(arguments...);
  }
};

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

inline void check_variable(const RowSpace* space, Shape shape, const RowSpace* other_space, Shape other_shape) {
  if (other_space != space)
    fail("vaelib: variables of different row spaces cannot be combined (", space->count, " and ", other_space->count, " rows)");
  if (other_shape != shape)
    fail("vaelib: variables of shapes ", text_of(shape), " and ", text_of(other_shape), " cannot be combined");
}
/// Parameters of one map have one length, which becomes that of the lines that the backend goes through.
inline void check_parameter(long features, long size, Shape shape, long& columns) {
  if (size == 0 || features % size != 0) fail("vaelib: a parameter of ", size, " numbers does not fit samples of shape ", text_of(shape));
  if (columns != features && columns != size) fail("vaelib: the parameters of one map have different lengths");
  columns = size;
}
template <class Leading, class Operand>
void check_operand(const Leading& leading, const Operand& operand, long& columns) {
  if constexpr (Unwrapped<Operand>::is_variable) {
    static_assert(agree(Leading::static_shape, Unwrapped<Operand>::shape), "vaelib: the variables of one map have different shapes");
    const auto& v = Unwrapped<Operand>::get(operand);
    check_variable(leading.space(), leading.shape, v.space(), v.shape);
  } else if constexpr (std::is_same_v<Operand, Parameter>) {
    check_parameter(leading.features(), operand.size(), leading.shape, columns);
  } else {
    static_assert(std::is_same_v<Operand, Scalar<typename Leading::Real>>, "vaelib: map takes variables, fixed() variables, Parameters and Scalars");
  }
}
/// Columns of the matrix that map runs over: the length of its parameters, or else all features.
template <class Leading, class... Operands>
long checked_columns(const Leading& leading, const Operands&... operands) {
  long columns = leading.features();
  (check_operand(leading, operands, columns), ...);
  return columns;
}

template <class S, class R, class F, class... O>
Node<R>* map_few(S& step, F f, const Node<R>* x, O... operands) {
  const long count = x->size();
  auto* y = step.node(x->space, x->features, step.needs_gradient(operands...));
  step.backend.map_few(f, count, y->value, backend_operand<false>(step, operands)...);
  if (y->needs_gradient)
    step.record({y}, [=](S& s) {
      InOrder{[&](const auto&... o) { s.backend.map_few_gradient(f, count, y->gradient, o...); }, backend_operand<true>(s, operands)...};
    });
  return y;
}
template <class S, class R, class F, class... O>
Node<R>* map(S& step, F f, const Node<R>* x, long columns, O... operands) {
  const long rows = columns == 0 ? 0 : x->size() / columns;
  auto* y = step.node(x->space, x->features, step.needs_gradient(operands...));
  step.backend.map(f, rows, columns, y->value, backend_operand<false>(step, operands)...);
  if (y->needs_gradient)
    step.record({y}, [=](S& s) {
      InOrder{[&](const auto&... o) { s.backend.map_gradient(f, rows, columns, y->gradient, o...); }, backend_operand<true>(s, operands)...};
    });
  return y;
}
template <class S, class R, class F, class... O>
Node<R>* map_reduce(S& step, F f, const Node<R>* x, O... operands) {
  const long rows = x->space->count, features = x->features;
  auto* y = step.node(x->space, 1, step.needs_gradient(operands...));
  step.backend.map_reduce(f, rows, features, y->value, backend_operand<false>(step, operands)...);
  if (y->needs_gradient)
    step.record({y}, [=](S& s) {
      InOrder{[&](const auto&... o) { s.backend.map_reduce_gradient(f, rows, features, y->gradient, o...); }, backend_operand<true>(s, operands)...};
    });
  return y;
}

}  // namespace detail

/// out = f(operands...) for each element.
template <class S, class F, class... Operands>
auto map(S& step, F f, const Operands&... operands) {
  const auto x = detail::leading_variable(operands...);
  const long columns = detail::checked_columns(x, operands...);
  return std::remove_const_t<decltype(x)>{detail::map(step, f, x.node, columns, detail::operand_of(operands)...), x.shape};
}

/// map for variables of few numbers, such as the terms of a loss: no vectorised loop is compiled for them.
template <class S, class F, class... Operands>
auto map_few(S& step, F f, const Operands&... operands) {
  static_assert((!std::is_same_v<Operands, Parameter> && ...), "vaelib: map_few takes no Parameters");
  const auto x = detail::leading_variable(operands...);
  detail::checked_columns(x, operands...);
  return std::remove_const_t<decltype(x)>{detail::map_few(step, f, x.node, detail::operand_of(operands)...), x.shape};
}

/// The sum of f(operands...) over the features of each row: rows x 1.
template <class S, class F, class... Operands>
auto map_reduce(S& step, F f, const Operands&... operands) {
  static_assert((!std::is_same_v<Operands, Parameter> && ...), "vaelib: map_reduce takes no Parameters; combine them by map first");
  const auto x = detail::leading_variable(operands...);
  detail::checked_columns(x, operands...);
  return Var<typename S::Real, Shape{1}>{detail::map_reduce(step, f, x.node, detail::operand_of(operands)...), Shape{1}};
}

}  // namespace vaelib::inline VAELIB_ABI
