// Windows of images, group norms and gates of the processor's backends, on plain pointers. Images are channels last.
//
// The loops over channels take whole vectors and then single numbers, and each output (or each image, where windows
// overlap) belongs to one task, so that no bit depends on the number of threads.
#pragma once

#include <vaelib/backend/host_operations.hpp>
#include <vaelib/backend/shapes.hpp>

#include <cmath>

namespace vaelib::inline VAELIB_ABI {

template <class Derived, class R>
class HostImages : public HostOperations<Derived, R> {
 public:
  using Real = R;

  // ---- windows: layers/pooling.hpp; those of a ConvolutionShape with as many channels behind it

  /// y = the largest pixel of each window, NaN where one is.
  void max_pool(const ConvolutionShape& s, long images, const Real* x, Real* y) {
    for_rows(images * s.out_height, long(s.out_width) * s.channels, [=](long row) {
      for (int ox = 0; ox < s.out_width; ++ox)
        for_channels(s.channels, [&](auto at) {
          typename decltype(at)::Lanes largest(Real(-INFINITY));
          for_window(s, row / s.out_height, int(row % s.out_height), ox, [&](long pixel) { largest = max(largest, at.load(x + pixel)); });
          at.store(y + (row * s.out_width + ox) * s.channels, largest);
        });
    });
  }
  /// The gradient goes to the first pixel of the window, row by row, that is as large as y.
  void max_pool_gradient(const ConvolutionShape& s, long images, const Real* x, const Real* y, const Real* upstream, Target<Real> to_x) {
    const long size = long(s.height) * s.width * s.channels;
    self().parallel(images, [=](long image) {
      if (!to_x.add) std::fill_n(to_x.data + image * size, size, Real(0));
      for (int oy = 0; oy < s.out_height; ++oy)
        for (int ox = 0; ox < s.out_width; ++ox)
          for_channels(s.channels, [&](auto at) {
            using T = typename decltype(at)::Lanes;
            const long out = ((image * s.out_height + oy) * s.out_width + ox) * s.channels;
            const T largest = at.load(y + out), g = at.load(upstream + out);
            auto found = largest < largest;  // in no lane yet
            for_window(s, image, oy, ox, [&](long pixel) {
              const auto here = at.load(x + pixel) == largest && !found;
              at.store(to_x.data + pixel, at.load(to_x.data + pixel) + select(here, g, T(Real(0))));
              found = found || here;
            });
          });
    });
  }

  /// y (+)= scale * the sum of each window.
  void sum_windows(const ConvolutionShape& s, long images, const Real* x, Real scale, Target<Real> y) {
    for_rows(images * s.out_height, long(s.out_width) * s.channels, [=](long row) {
      for (int ox = 0; ox < s.out_width; ++ox)
        for_channels(s.channels, [&](auto at) {
          typename decltype(at)::Lanes sum(Real(0));
          for_window(s, row / s.out_height, int(row % s.out_height), ox, [&](long pixel) { sum = sum + at.load(x + pixel); });
          at.store(y.data + (row * s.out_width + ox) * s.channels, y.add, sum * scale);
        });
    });
  }
  /// The adjoint: x (+)= scale * the sum of all y whose windows hold the pixel.
  void spread_windows(const ConvolutionShape& s, long images, const Real* y, Real scale, Target<Real> x) {
    for_rows(images * s.height, long(s.width) * s.channels, [=](long row) {
      const long image = row / s.height;
      const Span rows = windows_of(int(row % s.height), s, s.out_height);
      for (int ix = 0; ix < s.width; ++ix) {
        const Span columns = windows_of(ix, s, s.out_width);
        for_channels(s.channels, [&](auto at) {
          typename decltype(at)::Lanes sum(Real(0));
          for (int oy = rows.first; oy < rows.last; ++oy)
            for (int ox = columns.first; ox < columns.last; ++ox)
              sum = sum + at.load(y + ((image * s.out_height + oy) * s.out_width + ox) * s.channels);
          at.store(x.data + (row * s.width + ix) * s.channels, x.add, sum * scale);
        });
      }
    });
  }

  // ---- bilinear upsampling; of s only height, width, channels, out_height, out_width and stride, the factor, count

  void upsample_bilinear(const ConvolutionShape& s, long images, const Real* x, Real* y) {
    for_rows(images * s.out_height, long(s.out_width) * s.channels, [=](long row) {
      for (int ox = 0; ox < s.out_width; ++ox) {
        const Corners c(s, row / s.out_height, int(row % s.out_height), ox);
        for_channels(s.channels, [&](auto at) {
          at.store(y + (row * s.out_width + ox) * s.channels, at.load(x + c.pixel[0]) * c.weight[0] + at.load(x + c.pixel[1]) * c.weight[1] +
                                                                  at.load(x + c.pixel[2]) * c.weight[2] + at.load(x + c.pixel[3]) * c.weight[3]);
        });
      }
    });
  }
  void upsample_bilinear_gradient(const ConvolutionShape& s, long images, const Real* upstream, Target<Real> to_x) {
    const long size = long(s.height) * s.width * s.channels;
    self().parallel(images, [=](long image) {
      if (!to_x.add) std::fill_n(to_x.data + image * size, size, Real(0));
      for (int oy = 0; oy < s.out_height; ++oy)
        for (int ox = 0; ox < s.out_width; ++ox) {
          const Corners c(s, image, oy, ox);
          for_channels(s.channels, [&](auto at) {
            const auto g = at.load(upstream + ((image * s.out_height + oy) * s.out_width + ox) * s.channels);
            for (int k = 0; k < 4; ++k) at.store(to_x.data + c.pixel[k], true, g * c.weight[k]);
          });
        }
    });
  }

  // ---- group normalisation: layers/group_norm.hpp; statistics: of each image and channel the mean of its group, and then
  // of each image and channel 1 / sqrt(var + epsilon) of its group

  void group_norm(long images, long pixels, int channels, int groups, const Real* x, Real epsilon, const Real* weight, const Real* bias,
                  Real* statistics, Real* y) {
    const Real share = Real(1) / (Real(pixels) * Real(channels / groups));
    self().parallel(images, [=](long image) {
      Real *mean = statistics + image * channels, *rate = mean + images * channels;
      const long first = image * pixels * channels;
      std::fill_n(mean, channels, Real(0));
      std::fill_n(rate, channels, Real(0));
      for_pixels(pixels, channels, first, [=](auto at, auto channel) { channel.store(mean, true, at.load(x)); });
      group_sums(channels, groups, mean, [=](Real sum) { return sum * share; });
      for_pixels(pixels, channels, first, [=](auto at, auto channel) { channel.store(rate, true, square(at.load(x) - channel.load(mean))); });
      group_sums(channels, groups, rate, [=](Real sum) { return Real(1) / std::sqrt(sum * share + epsilon); });
      for_pixels(pixels, channels, first, [=](auto at, auto channel) {
        at.store(y, (at.load(x) - channel.load(mean)) * (channel.load(rate) * channel.load(weight)) + channel.load(bias));
      });
    });
  }

  void group_norm_gradient(long images, long pixels, int channels, int groups, const Real* x, const Real* statistics, const Real* weight,
                           const Real* upstream, Target<Real> to_x, Target<Real> to_weight, Target<Real> to_bias) {
    const Real share = Real(1) / (Real(pixels) * Real(channels / groups));
    const long count = images * channels;
    // of each image and channel: sums of upstream * normalised x and of upstream; then their means, weighted, over the group
    Real *sums_with_x = sums.at_least(4 * count), *sums_plain = sums_with_x + count;
    self().parallel(images, [=](long image) {
      const Real *mean = statistics + image * channels, *rate = mean + count;
      Real *with_x = sums_with_x + image * channels, *plain = with_x + count, *mean_with_x = plain + count, *mean_plain = mean_with_x + count;
      const long first = image * pixels * channels;
      std::fill_n(with_x, channels, Real(0));
      std::fill_n(plain, channels, Real(0));
      for_pixels(pixels, channels, first, [=](auto at, auto channel) {
        const auto g = at.load(upstream);
        channel.store(with_x, true, g * ((at.load(x) - channel.load(mean)) * channel.load(rate)));
        channel.store(plain, true, g);
      });
      if (!to_x) return;
      for (int c = 0; c < channels; ++c) mean_with_x[c] = weight[c] * with_x[c], mean_plain[c] = weight[c] * plain[c];
      group_sums(channels, groups, mean_with_x, [=](Real sum) { return sum * share; });
      group_sums(channels, groups, mean_plain, [=](Real sum) { return sum * share; });
      for_pixels(pixels, channels, first, [=](auto at, auto channel) {
        const auto centred = (at.load(x) - channel.load(mean)) * channel.load(rate);
        const auto g = at.load(upstream) * channel.load(weight);
        at.store(to_x.data, to_x.add, (g - channel.load(mean_plain) - centred * channel.load(mean_with_x)) * channel.load(rate));
      });
    });
    if (to_weight) this->sum_rows(images, channels, sums_with_x, Real(1), to_weight);
    if (to_bias) this->sum_rows(images, channels, sums_plain, Real(1), to_bias);
  }

  // ---- gates: layers/gated.hpp; rows of 2 * half numbers become rows of half

  void gate(long rows, long half, const Real* x, Real* y) {
    this->lines(rows, half, [=](auto at, auto, long r) VAELIB_LOOP {
      auto wide = at;
      wide.index += r * half;
      at.store(y, wide.load(x) * sigmoid(wide.load(x + half)));
    });
  }
  void gate_gradient(long rows, long half, const Real* x, const Real* upstream, Target<Real> to_x) {
    this->lines(rows, half, [=](auto at, auto, long r) VAELIB_LOOP {
      auto wide = at;
      wide.index += r * half;
      const auto g = at.load(upstream);
      const detail::Logistic logistic(wide.load(x + half));
      const auto signal = wide.load(x);
      wide.store(to_x.data, to_x.add, g * logistic.sigmoid(wide.load(x + half)));
      wide.store(to_x.data + half, to_x.add, g * signal * logistic.slope());
    });
  }

 private:
  Derived& self() { return static_cast<Derived&>(*this); }

  struct Span {
    int first, last;  // [first, last)
  };
  /// The windows that hold a pixel of index i, along one axis.
  static Span windows_of(int i, const ConvolutionShape& s, int windows) {
    const int end = i + s.padding, begin = end - s.kernel_height + 1;  // windows start at multiples of the stride within
    return {begin <= 0 ? 0 : (begin + s.stride - 1) / s.stride, std::min(windows, end / s.stride + 1)};
  }
  /// f(first number of the pixel) for the pixels of a window, row by row; padding is passed over.
  template <class F>
  static void for_window(const ConvolutionShape& s, long image, int oy, int ox, const F& f) {
    const int top = oy * s.stride - s.padding, left = ox * s.stride - s.padding;
    for (int iy = std::max(top, 0); iy < std::min(top + s.kernel_height, s.height); ++iy)
      for (int ix = std::max(left, 0); ix < std::min(left + s.kernel_width, s.width); ++ix) f(((image * s.height + iy) * s.width + ix) * s.channels);
  }

  /// The four pixels around a place of the larger image, and their shares.
  struct Corners {
    long pixel[4];
    Real weight[4];

    Corners(const ConvolutionShape& s, long image, int oy, int ox) {
      const Place y(oy, s.stride, s.height), x(ox, s.stride, s.width);
      for (int k = 0; k < 4; ++k) {
        pixel[k] = ((image * s.height + (k < 2 ? y.low : y.high)) * s.width + (k % 2 == 0 ? x.low : x.high)) * s.channels;
        weight[k] = (k < 2 ? 1 - y.share : y.share) * (k % 2 == 0 ? 1 - x.share : x.share);
      }
    }
    struct Place {
      int low, high;
      Real share;  // of high
      Place(int out, int factor, int extent) {
        const Real source = std::max(Real(0), (Real(out) + Real(0.5)) / Real(factor) - Real(0.5));
        low = int(source);
        high = std::min(low + 1, extent - 1);
        share = source - Real(low);
      }
    };
  };

  /// body(at) for all channels: whole vectors, then single numbers.
  template <class Body>
  static VAELIB_INLINE void for_channels(int channels, const Body& body) {
    constexpr int width = BaseAccess<Real>::width;
    int c = 0;
    for (; c + width <= channels; c += width) body(BaseAccess<Real>{c, width});
    for (; c < channels; ++c) body(Access<Real, Real>{c, 1});
  }
  /// body(at, channel) for all channels of the pixels from number `first` on.
  template <class Body>
  static void for_pixels(long pixels, int channels, long first, const Body& body) {
    for (long p = 0; p < pixels; ++p)
      for_channels(channels, [&](auto channel) {
        auto at = channel;
        at.index += first + p * channels;
        body(at, channel);
      });
  }
  /// Every channel gets finish(the sum over the channels of its group).
  template <class Finish>
  static void group_sums(int channels, int groups, Real* numbers, const Finish& finish) {
    const int size = channels / groups;
    for (int g = 0; g < groups; ++g) {
      Real sum = 0;
      for (int c = g * size; c < (g + 1) * size; ++c) sum += numbers[c];
      std::fill_n(numbers + g * size, size, finish(sum));
    }
  }
  /// f(row) for rows of `size` numbers, so many in a task that it is worth one.
  template <class F>
  void for_rows(long rows, long size, const F& f) {
    const long block = std::max(1L, 4096 / std::max(1L, size));
    self().parallel((rows + block - 1) / block, [&](long b) {
      for (long r = b * block; r < std::min(rows, (b + 1) * block); ++r) f(r);
    });
  }

  Buffer<Real> sums;  // grows to the largest need and stays
};

}  // namespace vaelib::inline VAELIB_ABI
