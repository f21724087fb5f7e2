// A variable: rows x Shape numbers in the arena of a step, and the place of their gradient.
#pragma once

#include <vaelib/core/operand.hpp>
#include <vaelib/core/rows.hpp>
#include <vaelib/core/shape.hpp>

namespace vaelib::inline VAELIB_ABI {

/// What the tape knows of a variable. The gradient is memory once somebody asked for it, and numbers once it is written.
template <class Real>
struct Node {
  Real* value = nullptr;
  Real* gradient = nullptr;
  const RowSpace* space = nullptr;
  long features = 0;
  bool needs_gradient = false;
  bool written = false;
  Node* previous = nullptr;  // the list of all nodes of a step

  long size() const { return space->count * features; }
};

/// A handle: the static shape S is checked by the compiler, `shape` is the same with its dynamic extents filled in.
template <class R, Shape S>
struct Var {
  using Real = R;
  static constexpr Shape static_shape = S;
  Node<R>* node = nullptr;
  Shape shape = S;

  long rows() const { return node->space->count; }
  long features() const { return node->features; }
  long size() const { return node->size(); }
  const RowSpace* space() const { return node->space; }
  R* value() const { return node->value; }
  bool needs_gradient() const { return node->needs_gradient; }
};

template <class T>
inline constexpr bool is_variable = false;
template <class R, Shape S>
inline constexpr bool is_variable<Var<R, S>> = true;

/// A number that changes with the step (beta, a temperature), in memory of the step, so that a recorded step can be replayed.
template <class R>
struct Scalar {
  const R* value = nullptr;
};

/// An operand of map that takes no gradient: a target, noise, a mask.
template <class V>
struct Fixed {
  V variable;
};
template <class V>
Fixed<V> fixed(V variable) {
  return {variable};
}

}  // namespace vaelib::inline VAELIB_ABI
