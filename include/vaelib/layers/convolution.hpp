// Conv2d and ConvTranspose2d, channels last, as torch.nn defines them (dilation 1, one group).
//
//   Conv2d            out = (in + 2 padding - kernel) / stride + 1                       W: kernel x kernel x in x out
//   ConvTranspose2d   out = (in - 1) stride - 2 padding + kernel + output_padding        W: kernel x kernel x out x in
//
// The transposed convolution is the gradient of the plain one with regard to its input, and the other way round: three
// operations of the backend serve both layers. Dumoulin & Visin 2016, "A guide to convolution arithmetic".
#pragma once

#include <vaelib/backend/shapes.hpp>
#include <vaelib/layers/linear.hpp>

namespace vaelib::inline VAELIB_ABI {

namespace detail {

/// Shared by both layers: y = activation(op(x) + bias); `plain` tells which of the two directions is forward.
template <class S, class R, class W, class F>
Node<R>* convolve(S& step, Node<R>* x, Shape out, bool plain, const ConvolutionShape& shape, const W& weight, const Parameter& bias, F activation) {
  auto* y = step.node(x->space, out.size(), step.needs_gradient(x, weight, bias));
  const long images = x->space->count;
  if (plain) {
    step.backend.convolution(shape, images, x->value, step.value(weight), y->value, false, step.value(bias), activation);
  } else {
    step.backend.convolution_adjoint(shape, images, x->value, step.value(weight), y->value, false, step.value(bias), activation);
  }
  if (!y->needs_gradient) return y;
  step.record({y}, [=](S& s) {
    constexpr bool unchanged = std::is_same_v<F, Identity>;
    const auto scratch = s.scratch(unchanged ? 0 : y->size());
    R* gradient = unchanged ? y->gradient : scratch.data;
    s.backend.output_gradient(activation, y->size() / out.channels, out.channels, y->value, y->gradient, gradient, s.target(bias));
    if (auto t = s.target(weight)) {
      const R *large = plain ? x->value : gradient, *small = plain ? gradient : x->value;
      s.backend.convolution_weight_gradient(shape, images, large, small, t.data, t.add);
    }
    auto t = s.target(x);
    if (t && plain) s.backend.convolution_adjoint(shape, images, gradient, s.value(weight), t.data, t.add);
    if (t && !plain) s.backend.convolution(shape, images, gradient, s.value(weight), t.data, t.add);
  });
  return y;
}

}  // namespace detail

template <int Out, int Kernel, int Stride = 1, int Padding = 0>
struct Conv2d {
  static_assert(Kernel > 0 && Stride > 0 && Padding >= 0, "vaelib: a convolution has a kernel and a stride of at least 1");
  [[no_unique_address]] Extent<Out> out{};
  Initializer initializer = Initializer::torch;
  Parameter weight{}, bias{};
  ConvolutionShape shape{};

  static constexpr int extent(int in) { return in == dynamic ? dynamic : (in + 2 * Padding - Kernel) / Stride + 1; }
  static constexpr bool accepts(Shape in) {
    return (in.height == dynamic || in.height + 2 * Padding >= Kernel) && (in.width == dynamic || in.width + 2 * Padding >= Kernel);
  }
  constexpr Shape output(Shape in) const { return {extent(in.height), extent(in.width), int(out)}; }

  [[gnu::cold]] void build(Shape in) {
    const Shape to = output(in);
    shape = {in.height, in.width, in.channels, to.height, to.width, to.channels, Kernel, Kernel, Stride, Padding};
    const long fan_in = long(in.channels) * Kernel * Kernel, fan_out = long(out) * Kernel * Kernel;
    weight = {{Kernel, Kernel, in.channels, out}, initialize(initializer, fan_in, fan_out), Layout::convolution};
    bias = {{int(out)}, initializer == Initializer::torch ? initialize(initializer, fan_in, fan_out) : constant(0)};
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
    const Shape to = output(x.shape);
    return Var<typename V::Real, output_of<Conv2d, V::static_shape>>{detail::convolve(step, x.node, to, true, shape, other, bias, activation), to};
  }
};

template <int Out, int Kernel, int Stride = 1, int Padding = 0, int OutputPadding = 0>
struct ConvTranspose2d {
  static_assert(Kernel > 0 && Stride > 0 && Padding >= 0, "vaelib: a convolution has a kernel and a stride of at least 1");
  static_assert(OutputPadding >= 0 && OutputPadding < Stride, "vaelib: output padding must be smaller than the stride");
  [[no_unique_address]] Extent<Out> out{};
  Initializer initializer = Initializer::torch;
  Parameter weight{}, bias{};
  ConvolutionShape shape{};

  static constexpr int extent(int in) { return in == dynamic ? dynamic : (in - 1) * Stride - 2 * Padding + Kernel + OutputPadding; }
  static constexpr bool accepts(Shape in) {
    return (in.height == dynamic || extent(in.height) > 0) && (in.width == dynamic || extent(in.width) > 0);
  }
  constexpr Shape output(Shape in) const { return {extent(in.height), extent(in.width), int(out)}; }

  [[gnu::cold]] void build(Shape in) {
    const Shape to = output(in);
    shape = {to.height, to.width, to.channels, in.height, in.width, in.channels, Kernel, Kernel, Stride, Padding};
    const long fan_in = long(out) * Kernel * Kernel, fan_out = long(in.channels) * Kernel * Kernel;  // as PyTorch counts them
    weight = {{Kernel, Kernel, out, in.channels}, initialize(initializer, fan_in, fan_out), Layout::transposed_convolution};
    bias = {{int(out)}, initializer == Initializer::torch ? initialize(initializer, fan_in, fan_out) : constant(0)};
  }
  void fields(auto&& f) {
    f("weight", weight);
    f("bias", bias);
  }
  template <class S, class V, class F = Identity>
  auto forward(S& step, V x, F activation = {}) const {
    const Shape to = output(x.shape);
    return Var<typename V::Real, output_of<ConvTranspose2d, V::static_shape>>{detail::convolve(step, x.node, to, false, shape, weight, bias, activation), to};
  }
};

}  // namespace vaelib::inline VAELIB_ABI
