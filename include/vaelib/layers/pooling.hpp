// Pooling and upsampling of images, channel by channel, as torch.nn has them.
//
//   MaxPool2d<Kernel, Stride, Padding>   the largest pixel of each window; the gradient goes to the first such pixel, row by row
//   AvgPool2d<Kernel, Stride, Padding>   the mean of each window; padding counts as zeros, and in the number divided by
//   Upsample<Factor>                     every pixel becomes Factor x Factor pixels
//   Upsample<Factor, Interpolation::bilinear>   linear in between, with the corners of pixels aligned (align_corners=False)
//
//   pools: out = (in + 2 padding - kernel) / stride + 1, rounded down      Upsample: out = in * factor
//
// The stride of a pool is its kernel unless said otherwise. Upsampling to the nearest pixel is the adjoint of summing windows,
// so the two share their operations.
#pragma once

#include <vaelib/backend/shapes.hpp>
#include <vaelib/layers/sequential.hpp>

namespace vaelib::inline VAELIB_ABI {

namespace detail {

/// The shape rule of both pools.
template <int Kernel, int Stride, int Padding>
struct Pool2d {
  static_assert(Kernel > 0 && Stride > 0, "vaelib: a pool has a kernel and a stride of at least 1");
  static_assert(Padding >= 0 && 2 * Padding <= Kernel, "vaelib: the padding of a pool is at most half its kernel, so that every window holds a pixel");

  static constexpr int extent(int in) { return in == dynamic ? dynamic : (in + 2 * Padding - Kernel) / Stride + 1; }
  static constexpr bool accepts(Shape in) {
    return (in.height == dynamic || in.height + 2 * Padding >= Kernel) && (in.width == dynamic || in.width + 2 * Padding >= Kernel);
  }
  static constexpr Shape output(Shape in) { return {extent(in.height), extent(in.width), in.channels}; }
  static ConvolutionShape windows(Shape in) {
    return {in.height, in.width, in.channels, extent(in.height), extent(in.width), in.channels, Kernel, Kernel, Stride, Padding};
  }
};

template <class S, class R>
Node<R>* max_pool(S& step, Node<R>* x, const ConvolutionShape& shape) {
  auto* y = step.node(x->space, long(shape.out_height) * shape.out_width * shape.channels, step.needs_gradient(x));
  const long images = x->space->count;
  step.backend.max_pool(shape, images, x->value, y->value);
  if (y->needs_gradient)
    step.record({y}, [=](S& s) {
      if (auto t = s.target(x)) s.backend.max_pool_gradient(shape, images, x->value, y->value, y->gradient, t);
    });
  return y;
}

/// Sums of windows times `scale`, or (not `down`) their adjoint.
template <class S, class R>
Node<R>* scaled_windows(S& step, Node<R>* x, bool down, const ConvolutionShape& shape, double scale) {
  const long small = long(shape.out_height) * shape.out_width * shape.channels, large = long(shape.height) * shape.width * shape.channels;
  auto* y = step.node(x->space, down ? small : large, step.needs_gradient(x));
  const auto apply = [=, images = x->space->count](S& s, bool sums, const R* from, Target<R> to) {
    if (sums) {
      s.backend.sum_windows(shape, images, from, R(scale), to);
    } else {
      s.backend.spread_windows(shape, images, from, R(scale), to);
    }
  };
  apply(step, down, x->value, {y->value});
  if (y->needs_gradient)
    step.record({y}, [=](S& s) {
      if (auto t = s.target(x)) apply(s, !down, y->gradient, t);
    });
  return y;
}

template <class S, class R>
Node<R>* upsample_bilinear(S& step, Node<R>* x, const ConvolutionShape& shape) {
  auto* y = step.node(x->space, long(shape.out_height) * shape.out_width * shape.channels, step.needs_gradient(x));
  const long images = x->space->count;
  step.backend.upsample_bilinear(shape, images, x->value, y->value);
  if (y->needs_gradient)
    step.record({y}, [=](S& s) {
      if (auto t = s.target(x)) s.backend.upsample_bilinear_gradient(shape, images, y->gradient, t);
    });
  return y;
}

}  // namespace detail

template <int Kernel, int Stride = Kernel, int Padding = 0>
struct MaxPool2d : detail::Pool2d<Kernel, Stride, Padding> {
  template <class S, class V>
  auto forward(S& step, V x) const {
    return Var<typename V::Real, MaxPool2d::output(V::static_shape)>{detail::max_pool(step, x.node, MaxPool2d::windows(x.shape)), MaxPool2d::output(x.shape)};
  }
};

template <int Kernel, int Stride = Kernel, int Padding = 0>
struct AvgPool2d : detail::Pool2d<Kernel, Stride, Padding> {
  template <class S, class V>
  auto forward(S& step, V x) const {
    constexpr double share = 1.0 / (double(Kernel) * Kernel);
    return Var<typename V::Real, AvgPool2d::output(V::static_shape)>{detail::scaled_windows(step, x.node, true, AvgPool2d::windows(x.shape), share),
                                                                     AvgPool2d::output(x.shape)};
  }
};

/// How pixels between pixels are made.
enum class Interpolation { nearest, bilinear };

template <int Factor, Interpolation Mode = Interpolation::nearest>
struct Upsample {
  static_assert(Factor > 0, "vaelib: the factor of Upsample is at least 1");

  static constexpr int extent(int in) { return in == dynamic ? dynamic : in * Factor; }
  static constexpr Shape output(Shape in) { return {extent(in.height), extent(in.width), in.channels}; }

  template <class S, class V>
  auto forward(S& step, V x) const {
    const Shape in = x.shape, to = output(in);
    using Result = Var<typename V::Real, output(V::static_shape)>;
    if constexpr (Mode == Interpolation::nearest) {
      // the larger image is the one with the windows
      const ConvolutionShape shape{to.height, to.width, to.channels, in.height, in.width, in.channels, Factor, Factor, Factor, 0};
      return Result{detail::scaled_windows(step, x.node, false, shape, 1), to};
    } else {
      const ConvolutionShape shape{in.height, in.width, in.channels, to.height, to.width, to.channels, Factor, Factor, Factor, 0};
      return Result{detail::upsample_bilinear(step, x.node, shape), to};
    }
  }
};

}  // namespace vaelib::inline VAELIB_ABI
