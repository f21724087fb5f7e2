#include <doctest/doctest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vaelib/backend/cpu/bfloat16.hpp>
#include <vaelib/backend/oracle.hpp>
#include <vector>

#include "kernels_under_test.hpp"

using namespace vaelib;
using namespace vaelib::cpu;

namespace {

/// The bits of the nearest bfloat16, ties to even: the floats between two codes are the lower halves of one.
std::uint32_t nearest_code(std::uint32_t bits) {
  const std::uint32_t code = bits >> 16, rest = bits & 0xffff;
  if ((bits & 0x7fffffff) > 0x7f800000) return code | 0x40;  // NaN: quiet
  return code + (rest > 0x8000 || (rest == 0x8000 && code % 2 == 1));
}

float rounded(float x) { return std::bit_cast<float>(nearest_code(std::bit_cast<std::uint32_t>(x)) << 16); }
template <class T = float>
std::vector<T> rounded(const std::vector<float>& all) {
  std::vector<T> result;
  for (float x : all) result.push_back(rounded(x));
  return result;
}

template <class F>
void for_each_simd_width(F&& f) {
  const int usual = simd_width();
  for (int width : {4, 8, 16})
    if (width <= widest_simd()) set_simd_width(width), f();
  set_simd_width(usual);
}

struct Product {
  long m;
  int n;
  long k;
  bool turned_a, turned_b;
  std::vector<float> a, b;

  Product(long rows, int columns, long depth, bool ta, bool tb)
      : m(rows),
        n(columns),
        k(depth),
        turned_a(ta),
        turned_b(tb),
        a(values(rows * depth, 1)),
        b(values(depth * columns, 2)) {}

  template <class Real>
  MatrixView<Real> left(const std::vector<Real>& of) const {
    return {of.data(), turned_a ? 1 : k, turned_a ? m : 1};
  }
  template <class Real>
  MatrixView<Real> right(const std::vector<Real>& of) const {
    return {of.data(), turned_b ? 1 : n, turned_b ? k : 1};
  }
  std::vector<float> run(Pool& pool, const Precision& precision = bfloat16_precision, float before = 0) const {
    std::vector<float> c(static_cast<std::size_t>(m * n), before);
    Workspace workspace;
    precision.product(pool, workspace, m, n, k, left(a), right(b), c.data(), n, before != 0, {});
    return c;
  }
};

ConvolutionShape shape(int height, int width, int channels, int out_channels, int kernel, int stride, int padding) {
  return {height,
          width,
          channels,
          (height + 2 * padding - kernel) / stride + 1,
          (width + 2 * padding - kernel) / stride + 1,
          out_channels,
          kernel,
          kernel,
          stride,
          padding};
}

const ConvolutionShape samples[] = {
    shape(28, 28, 1, 32, 4, 2, 1), shape(14, 14, 32, 64, 4, 2, 1), shape(16, 16, 3, 32, 4, 2, 1),
    shape(8, 8, 64, 24, 3, 1, 1),  shape(9, 7, 5, 7, 3, 2, 0),     shape(6, 6, 130, 9, 3, 1, 1),
    shape(7, 40, 6, 5, 1, 1, 0),   shape(5, 6, 3, 1, 2, 3, 1),
};

struct Convolution {
  ConvolutionShape s;
  long images;
  std::vector<float> x, weight, y;

  Convolution(const ConvolutionShape& of, long count)
      : s(of),
        images(count),
        x(values(count * s.height * s.width * s.channels, 1)),
        weight(values(long{s.kernel_height} * s.kernel_width * s.channels * s.out_channels, 3)),
        y(values(count * s.out_height * s.out_width * s.out_channels, 2)) {}

  struct Results {
    std::vector<float> forward, adjoint, gradient;
    bool operator==(const Results& o) const {
      return same_bits(forward, o.forward) && same_bits(adjoint, o.adjoint) && same_bits(gradient, o.gradient);
    }
  };
  Results run(Pool& pool, bool add = false, float before = 1e30f) const {
    Results r{std::vector<float>(y.size(), before), std::vector<float>(x.size(), before),
              std::vector<float>(weight.size(), before)};
    Workspace workspace;
    bfloat16_precision.convolution(pool, workspace, s, images, x.data(), weight.data(), r.forward.data(), add, {});
    bfloat16_precision.convolution_adjoint(pool, workspace, s, images, y.data(), weight.data(), r.adjoint.data(), add,
                                           {});
    bfloat16_precision.convolution_weight_gradient(pool, workspace, s, images, x.data(), y.data(), r.gradient.data(),
                                                   add);
    return r;
  }
  /// The oracle's results for the rounded operands.
  void check(const Results& r, double before = 0) const {
    Oracle oracle;
    const auto x_ = rounded<double>(x), weight_ = rounded<double>(weight), y_ = rounded<double>(y);
    std::vector<double> forward(y.size()), adjoint(x.size()), gradient(weight.size());
    oracle.convolution(s, images, x_.data(), weight_.data(), forward.data(), false);
    oracle.convolution_adjoint(s, images, y_.data(), weight_.data(), adjoint.data(), false);
    oracle.convolution_weight_gradient(s, images, x_.data(), y_.data(), gradient.data(), false);
    const auto bound = [](long terms) { return 1e-6 + 2e-7 * static_cast<double>(terms) * 0.25; };  // as in float
    CHECK(largest_error(r.forward, forward, before) < bound(long{s.kernel_height} * s.kernel_width * s.channels));
    CHECK(largest_error(r.adjoint, adjoint, before) < bound(long{s.kernel_height} * s.kernel_width * s.out_channels));
    CHECK(largest_error(r.gradient, gradient, before) < bound(images * s.out_height * s.out_width));
  }
};

}  // namespace

TEST_CASE("every code and what lies between two is rounded to nearest, ties to even; NaN stays NaN") {
  std::vector<float> all;
  std::vector<std::uint32_t> codes;
  for (std::uint32_t code = 0; code < 65536; ++code)
    for (std::uint32_t rest : {0x0000u, 0x0001u, 0x7fffu, 0x8000u, 0x8001u, 0xffffu}) {
      all.push_back(std::bit_cast<float>(code << 16 | rest));
      codes.push_back(nearest_code(code << 16 | rest));
    }
  all.push_back(1);  // an odd end
  codes.push_back(0x3f80);
  const auto word = [](float w) { return std::bit_cast<std::uint32_t>(w); };
  Pool pool(2);
  for_each_simd_width([&] {
    std::vector<float> words((all.size() + 1) / 2);
    cpu::detail::pack_neighbours(pool, all.data(), 1, long(all.size()), long(all.size()), words.data());
    long wrong = 0;
    for (std::size_t i = 0; i < all.size(); ++i)
      wrong += codes[i] != (i % 2 == 0 ? word(words[i / 2]) >> 16 : word(words[i / 2]) & 0xffff);
    wrong += (word(words.back()) & 0xffff) != 0;
    CHECK(wrong == 0);

    std::vector<float> lines(all);  // three lines: the third has no neighbour
    lines.insert(lines.end(), all.rbegin(), all.rend());
    lines.insert(lines.end(), all.begin(), all.end());
    words.resize(2 * all.size());
    cpu::detail::pack_lines(pool, lines.data(), 1, 3, long(all.size()), long(all.size()), words.data());
    wrong = 0;
    for (std::size_t i = 0; i < all.size(); ++i)
      wrong += word(words[i]) != (codes[i] << 16 | codes[all.size() - 1 - i]) ||
               word(words[all.size() + i]) != codes[i] << 16;
    CHECK(wrong == 0);
  });
}

TEST_CASE("a product of bfloat16 is that of the rounded operands, with sums in float") {
  Pool pool(2);
  for (long k : {1, 2, 3, 31, 255, 256, 257, 511, 513, 2500})
    for (int turned = 0; turned < 4; ++turned)
      for (const auto& size : {std::pair{1L, 1}, {7L, 20}, {61L, 130}, {800L, 33}}) {
        const long m = size.first;
        const int n = size.second;
        if (m * n * k > 3'000'000) continue;
        CAPTURE(m);
        CAPTURE(n);
        CAPTURE(k);
        CAPTURE(turned);
        const Product p(m, n, k, turned & 1, turned & 2);
        const auto a = rounded<double>(p.a), b = rounded<double>(p.b);
        std::vector<double> expected(static_cast<std::size_t>(m * n));
        Oracle().product(m, n, k, p.left(a), p.right(b), expected.data(), false);
        for_each_kernels([&] {
          CHECK(largest_error(p.run(pool), expected) < 1e-6 + 5e-8 * double(k));
          CHECK(largest_error(p.run(pool, bfloat16_precision, 0.5f), expected, 0.5) < 1e-6 + 5e-8 * double(k));
        });
      }
}

#if !defined(VAELIB_CBLAS)
TEST_CASE("up to a depth of 256, a product of bfloat16 has the bits of the float product of rounded operands") {
  Pool pool(2);
  for (long k : {1, 2, 77, 255, 256}) {
    const Product p(50, 70, k, false, k % 2 == 0);
    Product same = p;
    same.a = rounded(p.a);
    same.b = rounded(p.b);
    for_each_fused_kernels([&] { CHECK(same_bits(p.run(pool), same.run(pool, single_precision))); });
  }
}
#endif

TEST_CASE("products of bfloat16 have the same bits by the instruction and without, for any threads and rows") {
  for (auto [m, n, k] : {std::tuple{128L, 400, 784L}, {37L, 70, 3000L}, {900L, 65, 131L}}) {
    const Product p(m, n, k, false, false);
    Pool one(1);
    const auto expected = p.run(one);
    for (int threads : {2, 3, 4}) {
      Pool pool(threads);
      CHECK(same_bits(expected, p.run(pool)));
    }
    for_each_fused_kernels([&] { CHECK(same_bits(expected, p.run(one))); });
    Product part = p;
    for (long first : {0L, 5L, m - 1}) {
      part.m = std::min(m - first, 11L);
      part.a.assign(p.a.begin() + first * k, p.a.begin() + (first + part.m) * k);
      CHECK(same_bits(part.run(one), {expected.begin() + first * n, expected.begin() + (first + part.m) * n}));
    }
  }
}

TEST_CASE("convolutions of bfloat16 are those of the rounded operands, and add") {
  Pool pool(2);
  for_each_kernels([&] {
    for (const ConvolutionShape& s : samples)
      for (long images : {1, 4, 5}) {
        CAPTURE(s.height);
        CAPTURE(s.channels);
        CAPTURE(images);
        const Convolution c(s, images);
        c.check(c.run(pool));
        c.check(c.run(pool, true, 0.5f), 0.5);
      }
  });
}

TEST_CASE("convolutions of bfloat16 have the same bits by the instruction and without, for any threads") {
  for (const ConvolutionShape& s : samples) {
    const Convolution c(s, 37);
    Pool one(1);
    const auto expected = c.run(one);
    for (int threads : {2, 3, 4}) {
      Pool pool(threads);
      CHECK(expected == c.run(pool));
    }
    for_each_fused_kernels([&] { CHECK(expected == c.run(one)); });

    Convolution alone(s, 1);
    const auto of = [](const std::vector<float>& all, std::size_t image, std::size_t size) {
      return std::vector<float>(all.begin() + long(image * size), all.begin() + long((image + 1) * size));
    };
    for (std::size_t image : {0, 36}) {
      const std::size_t x_size = alone.x.size(), y_size = alone.y.size();
      alone.x = of(c.x, image, x_size);
      alone.y = of(c.y, image, y_size);
      const auto r = alone.run(one);
      CHECK(same_bits(r.forward, of(expected.forward, image, y_size)));
      CHECK(same_bits(r.adjoint, of(expected.adjoint, image, x_size)));
    }
  }
}

TEST_CASE("bfloat16: nothing to add up, and what is not finite") {
  Pool pool(2);
  Workspace workspace;
  std::vector<float> c(6, 7.0f);
  bfloat16_precision.product(pool, workspace, 2, 3, 0, {nullptr, 0, 1}, {nullptr, 3, 1}, c.data(), 3, true, {});
  CHECK(c == std::vector<float>(6, 7.0f));
  bfloat16_precision.product(pool, workspace, 2, 3, 0, {nullptr, 0, 1}, {nullptr, 3, 1}, c.data(), 3, false, {});
  CHECK(c == std::vector<float>(6, 0.0f));
  std::vector<float> gradient(16 * 32, 7.0f);
  bfloat16_precision.convolution_weight_gradient(pool, workspace, samples[0], 0, nullptr, nullptr, gradient.data(),
                                                 false);
  CHECK(gradient == std::vector<float>(16 * 32, 0.0f));

  const float infinity = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();
  for_each_kernels([&] {  // rows: a NaN, infinity, beyond the largest bfloat16, all right
    const float a[] = {nan, 1, 1, 1, infinity, 1, 3.4e38f, 0, 0, 1, 2, 3}, b[] = {1, 1, 1};
    float y[4];
    bfloat16_precision.product(pool, workspace, 4, 1, 3, {a, 3, 1}, {b, 1, 1}, y, 1, false, {});
    CHECK(std::isnan(y[0]));
    CHECK(y[1] == infinity);
    CHECK(y[2] == infinity);
    CHECK(y[3] == 6);
  });
}

TEST_CASE("a second product or convolution of bfloat16 takes no more memory") {
  Pool pool(2);
  Workspace workspace;
  const Product p(64, 300, 1501, false, true);
  const Convolution c(samples[1], 9);
  std::vector<float> out(64 * 300), y(c.y.size()), gradient(c.weight.size());
  std::size_t size = 0;
  for (int repeat = 0; repeat < 2; ++repeat) {
    bfloat16_precision.product(pool, workspace, p.m, p.n, p.k, p.left(p.a), p.right(p.b), out.data(), p.n, false, {});
    bfloat16_precision.convolution(pool, workspace, c.s, c.images, c.x.data(), c.weight.data(), y.data(), false, {});
    bfloat16_precision.convolution_weight_gradient(pool, workspace, c.s, c.images, c.x.data(), c.y.data(),
                                                   gradient.data(), false);
    if (repeat == 0) size = workspace.size();
  }
  CHECK(workspace.size() == size);
}
