// Shared by the tests of convolutions: one with operands, its results by definition, and what is found instead.
#pragma once

#include <doctest/doctest.h>

#include <vaelib/backend/shapes.hpp>

#include <cstring>
#include <span>
#include <vector>

#include "kernels_under_test.hpp"

using vaelib::ConvolutionShape;

/// One convolution with operands and the three results in double, straight from the definition.
struct ConvolutionCase {
  ConvolutionShape s;
  long images;
  std::vector<float> x, weight, y;
  std::vector<double> forward, adjoint, gradient;

  ConvolutionCase(ConvolutionShape shape, long count, bool oracle = true) : s(shape), images(count) {
    x = values(images * s.height * s.width * s.channels, 1);
    y = values(images * s.out_height * s.out_width * s.out_channels, 2);
    weight = values(long{s.kernel_height} * s.kernel_width * s.channels * s.out_channels, 3);
    forward.assign(y.size(), 0);
    adjoint.assign(x.size(), 0);
    gradient.assign(weight.size(), 0);
    if (oracle) sum();
  }

  void sum() {
    for (long image = 0; image < images; ++image)
      for (int row = 0; row < s.out_height; ++row)
        for (int column = 0; column < s.out_width; ++column)
          for (int u = 0; u < s.kernel_height; ++u)
            for (int v = 0; v < s.kernel_width; ++v) {
              const int i = row * s.stride + u - s.padding, j = column * s.stride + v - s.padding;
              if (i >= 0 && i < s.height && j >= 0 && j < s.width)
                position((image * s.height + i) * s.width + j, (image * s.out_height + row) * s.out_width + column,
                         long{u} * s.kernel_width + v);
            }
  }
  void position(long from, long to, long tap) {
    for (int c = 0; c < s.channels; ++c)
      for (int o = 0; o < s.out_channels; ++o) {
        const std::size_t a = from * s.channels + c, b = to * s.out_channels + o;
        const std::size_t w = (tap * s.channels + c) * s.out_channels + o;
        forward[b] += double(x[a]) * weight[w];
        adjoint[a] += double(y[b]) * weight[w];
        gradient[w] += double(x[a]) * y[b];
      }
  }
};

struct ConvolutionResults {
  std::vector<float> forward, adjoint, gradient;

  ConvolutionResults(const ConvolutionCase& c, float before)
      : forward(c.y.size(), before), adjoint(c.x.size(), before), gradient(c.weight.size(), before) {}
};

inline ConvolutionShape shape(int height, int width, int channels, int out_channels, int kernel_height,
                              int kernel_width, int stride, int padding) {
  return {height,
          width,
          channels,
          (height + 2 * padding - kernel_height) / stride + 1,
          (width + 2 * padding - kernel_width) / stride + 1,
          out_channels,
          kernel_height,
          kernel_width,
          stride,
          padding};
}

inline double bound(long terms) { return 1e-6 + 2e-7 * static_cast<double>(terms) * 0.25; }

inline void check(const ConvolutionCase& c, const ConvolutionResults& r, double before = 0) {
  const long taps = long{c.s.kernel_height} * c.s.kernel_width;
  CHECK(largest_error(r.forward, c.forward, before) < bound(taps * c.s.channels));
  CHECK(largest_error(r.adjoint, c.adjoint, before) < bound(taps * c.s.out_channels));
  CHECK(largest_error(r.gradient, c.gradient, before) < bound(c.images * c.s.out_height * c.s.out_width));
}

inline bool same(const ConvolutionResults& a, const ConvolutionResults& b) {
  return same_bits(a.forward, b.forward) && same_bits(a.adjoint, b.adjoint) && same_bits(a.gradient, b.gradient);
}

/// compute(pool, case, add, before) follows the definition with every set of kernels, and adds to what was there before.
template <class Compute>
void check_definition_and_sum(std::span<const ConvolutionShape> shapes, Compute compute) {
  vaelib::cpu::Pool pool(2);
  for_each_kernels([&] {
    for (const ConvolutionShape& s : shapes) {
      const ConvolutionCase c(s, 5);
      CAPTURE(s.height);
      CAPTURE(s.width);
      CAPTURE(s.channels);
      check(c, compute(pool, c, false, 1e30f));
      check(c, compute(pool, c, true, 0.5f), 0.5);
    }
  });
}

/// compute(pool, case) gives the same bits for any number of threads and any width of vectors.
template <class Compute>
void check_threads_and_widths(std::span<const ConvolutionShape> shapes, long images, Compute compute) {
  for (const ConvolutionShape& s : shapes) {
    const ConvolutionCase c(s, images, false);
    vaelib::cpu::Pool one(1);
    const ConvolutionResults expected = compute(one, c);
    for (int threads : {2, 3, 4}) {
      vaelib::cpu::Pool pool(threads);
      CHECK(same(expected, compute(pool, c)));
    }
    for_each_fused_kernels([&] { CHECK(same(expected, compute(one, c))); });
  }
}

/// An image has the same bits alone and in a batch of `images`.
template <class Compute>
void check_alone_and_in_batch(std::span<const ConvolutionShape> shapes, long images, Compute compute) {
  vaelib::cpu::Pool pool(2);
  for (const ConvolutionShape& s : shapes) {
    const ConvolutionCase batch(s, images, false);
    const ConvolutionResults expected = compute(pool, batch);
    ConvolutionCase one(s, 1, false);
    const auto x_size = long(one.x.size()), y_size = long(one.y.size());
    for (const long image : {0L, images / 2, images - 1}) {
      one.x.assign(batch.x.begin() + image * x_size, batch.x.begin() + (image + 1) * x_size);
      one.y.assign(batch.y.begin() + image * y_size, batch.y.begin() + (image + 1) * y_size);
      const ConvolutionResults r = compute(pool, one);
      CHECK(std::memcmp(r.forward.data(), expected.forward.data() + image * y_size, std::size_t(y_size) * 4) == 0);
      CHECK(std::memcmp(r.adjoint.data(), expected.adjoint.data() + image * x_size, std::size_t(x_size) * 4) == 0);
    }
  }
}
