// Diagnostics of codes and images against closed forms.
#include <doctest/doctest.h>

#include <cmath>
#include <vaelib/core/error.hpp>
#include <vaelib/metrics/diagnostics.hpp>
#include <vector>

using namespace vaelib;
using doctest::Approx;
using Floats = std::vector<float>;

TEST_CASE("KL divergence by dimension") {
  // KL(N(m, s^2) || N(0, 1)) = (m^2 + s^2 - 1 - log s^2) / 2
  const Floats means{1, 0, 3, 0}, log_variances{0, std::log(0.25f), 0, std::log(0.25f)};
  const auto kl = metrics::kl_by_dimension(means, log_variances, 2);
  CHECK(kl[0] == Approx((0.5 + 4.5) / 2));
  CHECK(kl[1] == Approx((0.25 - 1 + std::log(4.0)) / 2).epsilon(1e-6));
  CHECK_THROWS_WITH_AS(metrics::kl_by_dimension(means, log_variances, 3), "metrics: 4 numbers are no whole rows of 3",
                       Error);
  CHECK_THROWS_AS(metrics::kl_by_dimension(means, Floats{1, 2}, 2), Error);
  CHECK_THROWS_AS(metrics::kl_by_dimension({}, {}, 2), Error);
}

TEST_CASE("units are active where their means move") {
  const Floats means{1, 0.09f, 5, -1, -0.09f, 5};  // variances 1, 0.0081, 0
  const auto variances = metrics::column_variances(means, 3);
  CHECK(variances[0] == Approx(1));
  CHECK(variances[1] == Approx(0.0081));
  CHECK(variances[2] == 0);
  CHECK(metrics::active_units(variances) == 1);
  CHECK(metrics::active_units(std::vector<double>{0.011, 0.0099}) == 1);
}

TEST_CASE("errors, distances and order") {
  const Floats a{0, 0, 3, 4, 0, 0}, b{1, 1, 3, 2, 0, 0};
  CHECK(metrics::mean_squared_errors(a, b, 2) == std::vector<double>{1, 2, 0});
  const auto distances = metrics::pairwise_distances(a, 2);
  CHECK(distances == std::vector<double>{5, 0, 5});
  CHECK(metrics::mean_of(distances) == Approx(10 / 3.0));
  CHECK(metrics::mean_of({}) == 0);
  CHECK(metrics::descending(std::vector<double>{1, 3, 1, 2}) == std::vector<std::size_t>{1, 3, 0, 2});
}

TEST_CASE("eigenvalues of a matrix that is put together from them") {
  // A = Q diag(7, 2, -1) Q^T with Q = I - 2 v v^T / (v^T v), v = (1, 2, 3): a reflection
  constexpr std::size_t n = 3;
  const double v[] = {1, 2, 3}, values[] = {2, 7, -1};
  const auto q = [&](std::size_t i, std::size_t j) { return (i == j ? 1 : 0) - 2 * v[i] * v[j] / 14; };
  std::vector<double> a(n * n);
  for (std::size_t i = 0; i < n; ++i)
    for (std::size_t j = 0; j < n; ++j)
      for (std::size_t k = 0; k < n; ++k) a[i * n + j] += q(i, k) * values[k] * q(j, k);
  const auto eigen = metrics::eigen_of_symmetric(a, n);
  const std::size_t from[] = {1, 0, 2};
  for (std::size_t e = 0; e < n; ++e) {
    CHECK(eigen.values[e] == Approx(values[from[e]]).epsilon(1e-12));
    double dot = 0;
    for (std::size_t i = 0; i < n; ++i) dot += eigen.vectors[e * n + i] * q(i, from[e]);
    CHECK(std::abs(dot) == Approx(1).epsilon(1e-12));
  }
  CHECK(metrics::eigen_of_symmetric({0, 0, 0, 0}, 2).values == std::vector<double>{0, 0});
  CHECK_THROWS_AS(metrics::eigen_of_symmetric({1, 2}, 2), Error);
}

TEST_CASE("the principal plane of known rows") {
  // Along (1, 1, 0) / sqrt 2 with variance 8, along (0, 0, 1) with variance 2, and nothing along the third direction.
  Floats rows;
  for (const auto& [s, t] : {std::pair{2, 1}, {2, -1}, {-2, 1}, {-2, -1}})
    for (const double x :
         {10 + s * std::sqrt(2.0) / std::sqrt(2.0), 20 + s * std::sqrt(2.0) / std::sqrt(2.0), t * std::sqrt(2.0)})
      rows.push_back(float(x));
  const auto plane = metrics::principal_plane(rows, 3);
  CHECK(plane.x_share == Approx(0.8));
  CHECK(plane.y_share == Approx(0.2));
  for (std::size_t i = 0; i < 4; ++i) {
    CHECK(std::abs(plane.x[i]) == Approx(std::sqrt(8.0)).epsilon(1e-6));
    CHECK(std::abs(plane.y[i]) == Approx(std::sqrt(2.0)).epsilon(1e-6));
  }
  CHECK(plane.x[0] * plane.x[2] < 0);
  // of one column that may take part, only that one counts
  const auto line = metrics::principal_plane(rows, 3, 1);
  CHECK(line.x_share == Approx(0.4));
  CHECK(line.y_share == 0);
  CHECK(metrics::principal_plane(Floats{1, 1, 1}, 1).x == Floats{0, 0, 0});
}

TEST_CASE("correlations") {
  const Floats rows{1, 2, 5, 2, 4, 5, 3, 6, 5, 4, 8, 5};
  const std::vector<std::size_t> columns{1, 0, 2};
  const auto matrix = metrics::correlations(rows, 3, columns);
  CHECK(matrix[0] == Approx(1));
  CHECK(matrix[1] == Approx(1));
  CHECK(matrix[2] == 0);  // a column that does not move
  CHECK(metrics::covariances(rows, 3, columns)[0] == Approx(5));
}

TEST_CASE("the inverse of the normal distribution") {
  CHECK(metrics::inverse_normal(0.5) == Approx(0).epsilon(1e-9));
  CHECK(metrics::inverse_normal(0.975) == Approx(1.959963984540054).epsilon(1e-10));
  CHECK(metrics::inverse_normal(0.05) == Approx(-1.6448536269514722).epsilon(1e-10));
}
