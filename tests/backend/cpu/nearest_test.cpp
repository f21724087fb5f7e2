// The search for the nearest codes against all distances in double, by every set of kernels.
#include <doctest/doctest.h>

#include <limits>
#include <vaelib/backend/cpu/nearest.hpp>

#include "kernels_under_test.hpp"

using namespace vaelib;
using namespace vaelib::cpu;

namespace {

using Indices = std::vector<std::int32_t>;

Indices search(Pool& pool, long rows, int count, int width, const std::vector<float>& x, const std::vector<float>& codes) {
  Indices index(std::size_t(rows), -1);
  Workspace workspace;
  nearest_codes(pool, workspace, rows, count, width, x.data(), codes.data(), index.data());
  return index;
}

Indices brute_force(long rows, int count, int width, const std::vector<float>& x, const std::vector<float>& codes) {
  Indices index(std::size_t(rows), 0);
  for (long r = 0; r < rows; ++r) {
    double smallest = INFINITY;
    for (int k = 0; k < count; ++k) {
      const double d = cpu::detail::squared_distance(width, &x[std::size_t(r * width)], &codes[std::size_t(long(k) * width)]);
      if (d < smallest) smallest = d, index[std::size_t(r)] = k;
    }
  }
  return index;
}

/// By the kernels of 4, 8 and 16 lanes that can run here, the last in single precision and in bfloat16.
template <class F>
void for_each_search(F&& f) {
  with_kernels(kernels_4_lanes, f);
#if defined(__x86_64__)
  if (has_avx2()) with_kernels(kernels_avx2, f);
  if (!has_avx512()) return;
  for (const bool pairs : {false, true}) {
    if (pairs && !cpu::detail::has_bfloat16()) continue;
    const bool usual = cpu::detail::searches_in_bfloat16();
    cpu::detail::searches_in_bfloat16() = pairs;
    with_kernels(kernels_avx512, f);
    cpu::detail::searches_in_bfloat16() = usual;
  }
#endif
}

std::vector<float> moved(std::vector<float> numbers, float by, float scale = 1) {
  for (float& v : numbers) v = v * scale + by;
  return numbers;
}

}  // namespace

TEST_CASE("the nearest code is that of a search through all distances") {
  Pool pool(2);
  const struct {
    long rows;
    int count, width;
  } sizes[] = {{1, 1, 1}, {5, 3, 2}, {100, 16, 4}, {97, 65, 7}, {200, 130, 33}, {50, 1000, 64}, {300, 513, 20}, {13, 300, 270}, {700, 2000, 5}};
  for_each_search([&] {
    for (const auto& size : sizes) {
      const long rows = size.rows;
      const int count = size.count, width = size.width;
      CAPTURE(rows);
      CAPTURE(count);
      CAPTURE(width);
      const auto x = values(rows * width, 1), codes = values(long(count) * width, 2);
      CHECK(search(pool, rows, count, width, x, codes) == brute_force(rows, count, width, x, codes));
      // far from the origin the products are large and the distances small
      const auto far = moved(x, 1000), far_codes = moved(codes, 1000);
      CHECK(search(pool, rows, count, width, far, far_codes) == brute_force(rows, count, width, far, far_codes));
      // codes that lie close together
      const auto close = moved(codes, 0.25f, 1e-4f);
      CHECK(search(pool, rows, count, width, x, close) == brute_force(rows, count, width, x, close));
    }
  });
}

TEST_CASE("of codes as near as each other the first is taken") {
  Pool pool(2);
  const int width = 6, count = 200;
  auto codes = values(long(count) * width, 3);
  for (int k = 100; k < count; ++k) std::copy_n(&codes[std::size_t((k - 100) * width)], width, &codes[std::size_t(k * width)]);
  const std::vector<float> x(codes.begin() + 100 * width, codes.end());
  for_each_search([&] {
    const auto index = search(pool, 100, count, width, x, codes);
    for (int r = 0; r < 100; ++r) CHECK(index[std::size_t(r)] == r);
  });
}

TEST_CASE("many codes are searched a part at a time, with the same answer and little memory") {
  Pool pool(2);
  const long rows = 600;
  const int count = 9000, width = 24;
  const auto x = values(rows * width, 4), codes = values(long(count) * width, 5);
  const auto wanted = brute_force(rows, count, width, x, codes);
  for_each_search([&] {
    Indices index(rows);
    Workspace workspace;
    nearest_codes(pool, workspace, rows, count, width, x.data(), codes.data(), index.data());
    CHECK(index == wanted);
    CHECK(workspace.size() < std::size_t(1 << 17));  // the parts are of 64 K floats here, all codes are 216 K
  });
}

TEST_CASE("a search does not depend on threads, on the rows around, or on numbers that are not finite") {
  const long rows = 1000;
  const int count = 70, width = 10;
  auto x = values(rows * width, 6);
  const auto codes = values(long(count) * width, 7);
  const float nan = std::numeric_limits<float>::quiet_NaN();
  x[3 * width + 4] = nan;
  x[5 * width] = std::numeric_limits<float>::infinity();
  x[7 * width] = 3e38f;
  Pool one(1), four(4);
  for_each_search([&] {
    const auto whole = search(one, rows, count, width, x, codes);
    CHECK(search(four, rows, count, width, x, codes) == whole);
    CHECK(whole[3] == 0);
    CHECK(whole[5] == 0);
    const std::vector<float> tail(x.begin() + 601 * width, x.end());
    const auto part = search(four, rows - 601, count, width, tail, codes);
    CHECK(std::equal(part.begin(), part.end(), whole.begin() + 601));
    for (const auto k : whole) CHECK((k >= 0 && k < count));
  });
  auto broken = codes;
  broken[12 * width] = nan;
  for_each_search([&] {
    auto finite = x;
    finite[3 * width + 4] = finite[5 * width] = finite[7 * width] = 0;
    CHECK(search(four, rows, count, width, finite, broken) == brute_force(rows, count, width, finite, broken));
  });
}
