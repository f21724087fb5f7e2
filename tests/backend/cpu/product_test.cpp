#include <doctest/doctest.h>

#include <cmath>
#include <vaelib/backend/cpu/product.hpp>
#include <vector>

#include "kernels_under_test.hpp"

using namespace vaelib;
using namespace vaelib::cpu;

namespace {

struct Case {
  long m;
  int n;
  long k;
  bool a_transposed, b_transposed;
  std::vector<float> a, b;

  Case(long rows, int columns, long depth, bool ta = false, bool tb = false)
      : m(rows), n(columns), k(depth), a_transposed(ta), b_transposed(tb), a(values(m * k, 1)), b(values(k * n, 2)) {}

  Matrix left() const { return a_transposed ? Matrix{a.data(), 1, m} : Matrix{a.data(), k, 1}; }
  Matrix right() const { return b_transposed ? Matrix{b.data(), 1, k} : Matrix{b.data(), n, 1}; }
  std::vector<float> run(Pool& pool, bool add = false, float before = 1e30f, Finish finish = {}) const {
    std::vector<float> c(static_cast<std::size_t>(m * n), before);
    Workspace workspace;
    product(pool, workspace, m, n, k, left(), right(), c.data(), n, add, finish);
    return c;
  }
  std::vector<double> oracle() const {
    std::vector<double> c(static_cast<std::size_t>(m * n));
    const Matrix x = left(), y = right();
    for (long i = 0; i < m; ++i)
      for (long p = 0; p < k; ++p)
        for (int j = 0; j < n; ++j)
          c[static_cast<std::size_t>(i * n + j)] +=
              double(x.data[i * x.row + p * x.step]) * y.data[p * y.row + j * y.step];
    return c;
  }
  double bound() const { return 1e-6 + 5e-8 * static_cast<double>(k); }
};

const struct {
  long m;
  int n;
  long k;
} sizes[] = {{1, 1, 1},       {1, 40, 300},   {5, 3, 7},      {6, 16, 256},   {7, 17, 257},
             {13, 8, 1024},   {16, 400, 784}, {97, 130, 100}, {128, 20, 400}, {200, 64, 64},
             {64, 300, 1500}, {12, 65, 3000}, {40, 33, 9000}, {3, 130, 2049}, {300, 129, 1030}};

}  // namespace

TEST_CASE("product is the sum of products, in all four transpositions, set and added") {
  Pool pool(2);
  for_each_kernels([&] {
    for (const auto& size : sizes)
      for (int transposed = 0; transposed < 4; ++transposed) {
        const Case c(size.m, size.n, size.k, transposed & 1, transposed & 2);
        CAPTURE(c.m);
        CAPTURE(c.n);
        CAPTURE(c.k);
        CAPTURE(transposed);
        const std::vector<double> expected = c.oracle();
        CHECK(largest_error(c.run(pool), expected) < c.bound());
        CHECK(largest_error(c.run(pool, true, 0.5f), expected, 0.5) < c.bound());
      }
  });
}

TEST_CASE("product writes inside its rows and columns only") {
  Pool pool(2);
  Workspace workspace;
  const Case c(13, 21, 50);
  std::vector<float> out(13 * 30, 9.0f);
  product(pool, workspace, 13, 21, 50, c.left(), c.right(), out.data(), 30, false);
  const std::vector<float> dense = c.run(pool);
  for (std::size_t i = 0; i < 13; ++i)
    for (std::size_t j = 0; j < 30; ++j) CHECK(out[i * 30 + j] == (j < 21 ? dense[i * 21 + j] : 9.0f));
}

TEST_CASE("product of nothing: no rows, no columns, no depth") {
  Pool pool(2);
  Workspace workspace;
  float c[6] = {1, 2, 3, 4, 5, 6};
  product(pool, workspace, 0, 3, 4, {nullptr, 4, 1}, {nullptr, 3, 1}, nullptr, 3, false);
  product(pool, workspace, 2, 0, 4, {nullptr, 4, 1}, {nullptr, 0, 1}, nullptr, 0, false);
  product(pool, workspace, 2, 3, 0, {nullptr, 0, 1}, {nullptr, 3, 1}, c, 3, true);
  CHECK(c[5] == 6);
  FinishCheck check(6, 3);
  product(pool, workspace, 2, 3, 0, {nullptr, 0, 1}, {nullptr, 3, 1}, c, 3, false, check.finish());
  CHECK(check.once_each(std::vector<float>(6), std::vector<float>(c, c + 6)));
}

TEST_CASE("product finishes every element once, at its place") {
  Pool pool(2);
  for (const auto& size : sizes) {
    const Case c(size.m, size.n, size.k);
    FinishCheck check(static_cast<std::size_t>(c.m * c.n), c.n);
    CHECK(check.once_each(c.run(pool), c.run(pool, false, 0, check.finish())));
  }
}

#if !defined(VAELIB_CBLAS)
TEST_CASE("product gives the same bits for any number of threads and any width of vectors") {
  for (const auto& size : sizes)
    for (int transposed = 0; transposed < 4; ++transposed) {
      const Case c(size.m, size.n, size.k, transposed & 1, transposed & 2);
      Pool one(1);
      const std::vector<float> expected = c.run(one);
      for (int threads : {2, 3, 4}) {
        Pool pool(threads);
        CHECK(same_bits(expected, c.run(pool)));
      }
      for_each_fused_kernels([&] { CHECK(same_bits(expected, c.run(one))); });
    }
}

TEST_CASE("a row of a product has the same bits alone, in any batch, and from any transposition") {
  Pool pool(2);
  for (const auto& size : sizes) {
    const Case c(size.m, size.n, size.k);
    const std::vector<float> whole = c.run(pool);
    Workspace workspace;
    for (long first : {0L, c.m / 2, c.m - 1})
      for (long count : {1L, 5L, c.m - first}) {
        if (first + count > c.m) continue;
        std::vector<float> part(static_cast<std::size_t>(count * c.n));
        product(pool, workspace, count, c.n, c.k, {c.a.data() + first * c.k, c.k, 1}, c.right(), part.data(), c.n,
                false);
        CHECK(std::equal(part.begin(), part.end(), whole.begin() + first * c.n));
      }
    Case turned = c;
    turned.a_transposed = turned.b_transposed = true;
    for (long i = 0; i < c.m; ++i)
      for (long p = 0; p < c.k; ++p)
        turned.a[static_cast<std::size_t>(p * c.m + i)] = c.a[static_cast<std::size_t>(i * c.k + p)];
    for (int j = 0; j < c.n; ++j)
      for (long p = 0; p < c.k; ++p)
        turned.b[static_cast<std::size_t>(j * c.k + p)] = c.b[static_cast<std::size_t>(p * c.n + j)];
    CHECK(same_bits(whole, turned.run(pool)));
  }
}
#endif

TEST_CASE("a second product of the same size takes no more memory") {
  Pool pool(2);
  Workspace workspace;
  const Case c(64, 300, 1500);
  std::vector<float> out(64 * 300);
  product(pool, workspace, c.m, c.n, c.k, c.left(), c.right(), out.data(), c.n, false);
  const std::size_t size = workspace.size();
  product(pool, workspace, c.m, c.n, c.k, c.left(), c.right(), out.data(), c.n, true);
  CHECK(workspace.size() == size);
}
