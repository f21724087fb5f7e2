// The oracle: the same layers in double over naive products and loops, one thread. What is right by it is right.
#pragma once

#include <vaelib/backend/host_codes.hpp>
#include <vaelib/backend/shapes.hpp>
#include <vaelib/core/functors.hpp>

#include <vector>

namespace vaelib::inline VAELIB_ABI {

namespace detail {
struct OneDouble {
  using type = double;
};
}  // namespace detail

class Oracle : public HostCodes<Oracle, double> {
 public:
  static constexpr const char* name = "oracle";

  void parallel(long tasks, auto&& f) {
    for (long t = 0; t < tasks; ++t) f(t);
  }
  void parallel_lanes(long tasks, auto&& body) {
    for (long t = 0; t < tasks; ++t) body(detail::OneDouble{}, t);
  }

  template <class F = Identity>
  void product(long m, long n, long k, MatrixView<double> a, MatrixView<double> b, double* c, bool add, const double* bias = nullptr, F f = {}) {
    for (long i = 0; i < m; ++i)
      for (long j = 0; j < n; ++j) {
        double sum = 0;
        for (long p = 0; p < k; ++p) sum += a.data[i * a.row + p * a.step] * b.data[p * b.row + j * b.step];
        write(c[i * n + j], sum, add, bias ? bias[j] : 0, f);
      }
  }

  template <class F = Identity>
  void convolution(const ConvolutionShape& s, long images, const double* x, const double* weight, double* y, bool add,
                   const double* bias = nullptr, F f = {}) {
    std::vector<double> outputs(images * s.out_height * s.out_width * s.out_channels);
    for_each_tap(s, images, [&](long in, long out, long tap) {
      for (int i = 0; i < s.channels; ++i)
        for (int o = 0; o < s.out_channels; ++o)
          outputs[out * s.out_channels + o] += x[in * s.channels + i] * weight[(tap * s.channels + i) * s.out_channels + o];
    });
    for (std::size_t e = 0; e < outputs.size(); ++e) write(y[e], outputs[e], add, bias ? bias[e % s.out_channels] : 0, f);
  }

  template <class F = Identity>
  void convolution_adjoint(const ConvolutionShape& s, long images, const double* y, const double* weight, double* x, bool add,
                           const double* bias = nullptr, F f = {}) {
    std::vector<double> inputs(images * s.height * s.width * s.channels);
    for_each_tap(s, images, [&](long in, long out, long tap) {
      for (int i = 0; i < s.channels; ++i)
        for (int o = 0; o < s.out_channels; ++o)
          inputs[in * s.channels + i] += y[out * s.out_channels + o] * weight[(tap * s.channels + i) * s.out_channels + o];
    });
    for (std::size_t e = 0; e < inputs.size(); ++e) write(x[e], inputs[e], add, bias ? bias[e % s.channels] : 0, f);
  }

  void convolution_weight_gradient(const ConvolutionShape& s, long images, const double* x, const double* y, double* weight, bool add) {
    if (!add) std::fill_n(weight, long(s.kernel_height) * s.kernel_width * s.channels * s.out_channels, 0.0);
    for_each_tap(s, images, [&](long in, long out, long tap) {
      for (int i = 0; i < s.channels; ++i)
        for (int o = 0; o < s.out_channels; ++o)
          weight[(tap * s.channels + i) * s.out_channels + o] += x[in * s.channels + i] * y[out * s.out_channels + o];
    });
  }
  void nearest_codes(long rows, int count, int width, const double* x, const double* codes, std::int32_t* index) {
    for (long r = 0; r < rows; ++r) {
      double smallest = INFINITY;
      index[r] = 0;
      for (int k = 0; k < count; ++k) {
        double distance = 0;
        for (int j = 0; j < width; ++j) distance += (x[r * width + j] - codes[long(k) * width + j]) * (x[r * width + j] - codes[long(k) * width + j]);
        if (distance < smallest) smallest = distance, index[r] = k;
      }
    }
  }

 private:
  template <class F>
  static void write(double& place, double sum, bool add, double bias, F f) {
    place = add ? place + sum : f(sum + bias);
  }
  /// body(pixel of x, pixel of y, tap) for every pair that the kernel connects.
  static void for_each_tap(const ConvolutionShape& s, long images, auto&& body) {
    for (long image = 0; image < images; ++image)
      for (int oy = 0; oy < s.out_height; ++oy)
        for (int ox = 0; ox < s.out_width; ++ox)
          for (int ky = 0; ky < s.kernel_height; ++ky)
            for (int kx = 0; kx < s.kernel_width; ++kx) {
              const int iy = oy * s.stride + ky - s.padding, ix = ox * s.stride + kx - s.padding;
              if (iy < 0 || iy >= s.height || ix < 0 || ix >= s.width) continue;
              body((image * s.height + iy) * s.width + ix, (image * s.out_height + oy) * s.out_width + ox, ky * s.kernel_width + kx);
            }
  }
};

}  // namespace vaelib::inline VAELIB_ABI
