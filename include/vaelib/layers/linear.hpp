// y = x W + b      x: rows x in      W: in x out      b: out      y: rows x out
//
// In files W is out x in, as torch.nn.Linear has it. Linear refuses a spatial shape: put Flatten before it.
#pragma once

#include <vaelib/autodiff/operations.hpp>
#include <vaelib/layers/activations.hpp>
#include <vaelib/layers/sequential.hpp>

namespace vaelib::inline VAELIB_ABI {

namespace detail {
/// The weight: a Parameter, or a node of in x out numbers.
template <class S, class R, class W, class F>
Node<R>* linear(S& step, Node<R>* x, int in, int out, const W& weight, const Parameter& bias, F activation) {
  if (x->features != in) fail("vaelib: linear takes ", in, " features, found ", x->features);
  auto* y = step.node(x->space, out, step.needs_gradient(x, weight, bias));
  const long rows = x->space->count;
  step.backend.product(rows, out, in, {x->value, in, 1}, {step.value(weight), out, 1}, y->value, false, step.value(bias), activation);
  if (!y->needs_gradient) return y;
  step.record({y}, [=](S& s) {
    constexpr bool plain = std::is_same_v<F, Identity>;
    const auto scratch = s.scratch(plain ? 0 : y->size());
    R* gradient = plain ? y->gradient : scratch.data;
    s.backend.output_gradient(activation, rows, out, y->value, y->gradient, gradient, s.target(bias));
    if (auto t = s.target(weight)) s.backend.product(in, out, rows, {x->value, 1, in}, {gradient, out, 1}, t.data, t.add);
    if (auto t = s.target(x)) s.backend.product(rows, in, out, {gradient, out, 1}, {s.value(weight), 1, out}, t.data, t.add);
  });
  return y;
}
}  // namespace detail

/// activation(x W + b) for a flat variable; the activation must give its slope from its output.
template <Shape To, class F = Identity, class S, class R, Shape In>
Var<R, To> linear(S& step, Var<R, In> x, const Parameter& weight, const Parameter& bias, F activation = {}) {
  return {detail::linear(step, x.node, weight.extents[0], weight.extents[1], weight, bias, activation), Shape{weight.extents[1]}};
}

template <int Out>
struct Linear {
  [[no_unique_address]] Extent<Out> out{};
  Initializer initializer = Initializer::torch;
  Parameter weight{}, bias{};

  static constexpr bool accepts(Shape in) { return in.is_flat(); }
  constexpr Shape output(Shape) const { return {int(out)}; }

  [[gnu::cold]] void build(Shape in) {
    weight = {{in.size(), out}, initialize(initializer, in.size(), out), Layout::linear};
    bias = {{int(out)}, initializer == Initializer::torch ? initialize(initializer, in.size(), out) : constant(0)};
  }
  void fields(auto&& f) {
    f("weight", weight);
    f("bias", bias);
  }
  template <class S, class V, class F = Identity>
  auto forward(S& step, V x, F activation = {}) const {
    return apply(step, x, weight, activation);
  }
  /// The same with another weight of these extents.
  template <class S, class V, class W, class F>
  auto apply(S& step, V x, const W& other, F activation) const {
    const int to = weight.extents[1];
    return Var<typename V::Real, output_of<Linear, V::static_shape>>{detail::linear(step, x.node, weight.extents[0], to, other, bias, activation), Shape{to}};
  }
};

}  // namespace vaelib::inline VAELIB_ABI
