// MaskedConv2d: a convolution that sees only some of the pixels around its own, for models that predict one pixel after
// another. Stride 1, the image keeps its size; van den Oord et al. 2016, "Pixel Recurrent Neural Networks",
// section 3.4.
//
//   y[o] = bias + sum over taps d that the mask lets through of x[o + d] W[d]      W: kernel x kernel x in x out
//
//   A               what stands before the pixel in reading order: rows above, and its own row to the left
//   B               the same and the pixel itself
//   above           rows above only                    }  a vertical stack, and
//   above_or_level  rows above and the whole own row   }
//   left            the own row to the left only       }  a horizontal one, which together see all pixels before, where
//   left_or_self    the same and the pixel itself      }  a stack of A and B has a blind spot; van den Oord et al.
//   2016,
//                                                         "Conditional Image Generation with PixelCNN Decoders"
//
// Taps behind the mask are parameters, so that a file has torch.nn.Conv2d's weight, but are neither read nor given a
// gradient. An image may have another height and width than the layer was built for.
#pragma once

#include <vaelib/backend/shapes.hpp>
#include <vaelib/layers/linear.hpp>

namespace vaelib::inline VAELIB_ABI {

enum class Mask2d { A, B, above, above_or_level, left, left_or_self };

/// Whether the pixel `down` rows and `right` columns from its own is let through.
constexpr bool passes(Mask2d mask, int down, int right) {
  switch (mask) {
    case Mask2d::A:
      return down < 0 || (down == 0 && right < 0);
    case Mask2d::B:
      return down < 0 || (down == 0 && right <= 0);
    case Mask2d::above:
      return down < 0;
    case Mask2d::above_or_level:
      return down <= 0;
    case Mask2d::left:
      return down == 0 && right < 0;
    case Mask2d::left_or_self:
      return down == 0 && right <= 0;
  }
  return false;
}

namespace detail {

/// The part of a kernel that is multiplied at all: from its first tap to the last row and column that pass.
struct MaskedKernel {
  Mask2d mask;
  int kernel;

  constexpr int rows() const { return kernel / 2 + (mask == Mask2d::above ? 0 : 1); }
  constexpr bool one_row() const { return mask == Mask2d::left || mask == Mask2d::left_or_self; }
  constexpr int columns() const { return one_row() ? kernel / 2 + 1 : kernel; }
  constexpr int passing() const {
    int count = 0;
    for (int tap = 0; tap < kernel * kernel; ++tap)
      count += passes(mask, tap / kernel - kernel / 2, tap % kernel - kernel / 2);
    return count;
  }
  /// f(place in the whole kernel, place in the part or -1) for each tap.
  void for_each_tap(auto&& f) const {
    for (int y = 0; y < kernel; ++y)
      for (int x = 0; x < kernel; ++x)
        f(y * kernel + x, passes(mask, y - kernel / 2, x - kernel / 2) ? y * columns() + x : -1);
  }
};

template <class S, class R>
Node<R>* masked_convolve(S& step, Node<R>* x, Shape in, int out, MaskedKernel part, const Parameter& weight,
                         const Parameter& bias) {
  auto* y = step.node(x->space, long(in.height) * in.width * out, step.needs_gradient(x, weight, bias));
  // one row at a time where the mask sees no other: it is then an image of one row
  const int height = part.one_row() ? 1 : in.height;
  const long images = x->space->count * (in.height / height), tap = long(in.channels) * out,
             taps = part.rows() * part.columns();
  const ConvolutionShape shape{height, in.width,    in.channels,    height, in.width,
                               out,    part.rows(), part.columns(), 1,      part.kernel / 2};
  R* const kernel = step.arena.template allocate<R>(taps * tap);
  std::fill_n(kernel, taps * tap, R(0));
  part.for_each_tap([&](int whole, int place) {
    if (place >= 0) std::copy_n(step.value(weight) + whole * tap, tap, kernel + place * tap);
  });
  step.backend.convolution(shape, images, x->value, kernel, y->value, false, step.value(bias), Identity{});
  if (!y->needs_gradient) return y;
  step.record({y}, [=](S& s) {
    s.backend.output_gradient(Identity{}, y->size() / out, out, y->value, y->gradient, y->gradient, s.target(bias));
    if (auto t = s.target(weight)) {
      const auto gradient = s.scratch(taps * tap);
      s.backend.convolution_weight_gradient(shape, images, x->value, y->gradient, gradient.data, false);
      part.for_each_tap([&](int whole, int place) {
        if (place >= 0)
          s.backend.copy(tap, gradient.data + place * tap, {t.data + whole * tap, t.add});
        else if (!t.add)
          std::fill_n(t.data + whole * tap, tap, R(0));
      });
    }
    if (auto t = s.target(x)) s.backend.convolution_adjoint(shape, images, y->gradient, kernel, t.data, t.add);
  });
  return y;
}

}  // namespace detail

template <int Out, int Kernel, Mask2d M>
struct MaskedConv2d {
  static_assert(Kernel >= 3 && Kernel % 2 == 1, "vaelib: a masked convolution has an odd kernel of at least 3");
  [[no_unique_address]] Extent<Out> out{};
  Initializer initializer = Initializer::torch;
  Parameter weight{}, bias{};

  static constexpr detail::MaskedKernel part{M, Kernel};
  constexpr Shape output(Shape in) const { return {in.height, in.width, int(out)}; }

  [[gnu::cold]] void build(Shape in) {
    const long fan_in = long(in.channels) * part.passing(), fan_out = long(out) * part.passing();
    weight = {{Kernel, Kernel, in.channels, out}, initialize(initializer, fan_in, fan_out), Layout::convolution};
    bias = {{int(out)}, initializer == Initializer::torch ? initialize(initializer, fan_in, fan_out) : constant(0)};
  }
  void fields(auto&& f) {
    f("weight", weight);
    f("bias", bias);
  }
  template <class S, class V>
  auto forward(S& step, V x) const {
    if (x.shape.channels != weight.extents[2])
      fail("vaelib: a masked convolution of ", weight.extents[2], " channels was given shape ", text_of(x.shape));
    return Var<typename V::Real, output_of<MaskedConv2d, V::static_shape>>{
        detail::masked_convolve(step, x.node, x.shape, out, part, weight, bias), output(x.shape)};
  }
};

}  // namespace vaelib::inline VAELIB_ABI
