// What a trained VAE did with its code and its images: plain numbers of plain rows, computed in double.
//
// Codes are rows of `size` numbers, one row a sample; images are rows of features.
#pragma once

#include <vaelib/core/error.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <span>
#include <vector>

namespace vaelib::inline VAELIB_ABI {
namespace metrics {

namespace detail {
inline std::size_t rows_of(std::span<const float> values, std::size_t size) {
  if (size == 0 || values.empty() || values.size() % size != 0)
    fail("metrics: ", values.size(), " numbers are no whole rows of ", size);
  return values.size() / size;
}
inline void check_equal(std::size_t a, std::size_t b) {
  if (a != b) fail("metrics: ", a, " numbers stand against ", b);
}
}  // namespace detail

/// KL(q(z|x) || N(0, 1)) of each dimension, its mean over rows; nats. The terms are
/// (mean^2 + exp(logvar) - 1 - logvar) / 2; Kingma and Welling 2014, appendix B.
inline std::vector<double> kl_by_dimension(std::span<const float> means, std::span<const float> log_variances,
                                           std::size_t size) {
  const auto rows = double(detail::rows_of(means, size));
  detail::check_equal(means.size(), log_variances.size());
  std::vector<double> kl(size);
  for (std::size_t i = 0; i < means.size(); ++i) {
    const double mean = means[i], log_variance = log_variances[i];
    kl[i % size] += 0.5 * (mean * mean + std::expm1(log_variance) - log_variance) / rows;
  }
  return kl;
}

/// Mean of each column.
inline std::vector<double> column_means(std::span<const float> values, std::size_t size) {
  const auto rows = double(detail::rows_of(values, size));
  std::vector<double> means(size);
  for (std::size_t i = 0; i < values.size(); ++i) means[i % size] += values[i] / rows;
  return means;
}

/// Variance of each column, of these rows themselves (divided by their number).
inline std::vector<double> column_variances(std::span<const float> values, std::size_t size) {
  const auto means = column_means(values, size);
  std::vector<double> variances(size);
  for (std::size_t i = 0; i < values.size(); ++i)
    variances[i % size] += (values[i] - means[i % size]) * (values[i] - means[i % size]);
  for (double& variance : variances) variance /= double(values.size() / size);
  return variances;
}

/// A dimension is active where the variance of the mean of q(z|x) over samples is above this; Burda et al. 2016,
/// section 5.2. `variances` are column_variances of the means.
inline constexpr double active_variance = 0.01;
inline std::size_t active_units(std::span<const double> variances) {
  return std::size_t(std::count_if(variances.begin(), variances.end(), [](double v) { return v > active_variance; }));
}

/// Positions of the values, the largest first; equal ones stay in order.
inline std::vector<std::size_t> descending(std::span<const double> values) {
  std::vector<std::size_t> order(values.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return values[a] > values[b]; });
  return order;
}

/// Of each row, the squared difference, averaged over its features.
inline std::vector<double> mean_squared_errors(std::span<const float> images, std::span<const float> others,
                                               std::size_t size) {
  std::vector<double> errors(detail::rows_of(images, size));
  detail::check_equal(images.size(), others.size());
  for (std::size_t i = 0; i < images.size(); ++i) {
    const double difference = double(images[i]) - others[i];
    errors[i / size] += difference * difference / double(size);
  }
  return errors;
}

/// Euclidean distances of all pairs of rows. Their mean measures how diverse samples are; compare it with that of as
/// many true images.
inline std::vector<double> pairwise_distances(std::span<const float> values, std::size_t size) {
  const std::size_t rows = detail::rows_of(values, size);
  std::vector<double> distances;
  for (std::size_t a = 0; a < rows; ++a)
    for (std::size_t b = 0; b < a; ++b) {
      double sum = 0;
      for (std::size_t k = 0; k < size; ++k) {
        const double difference = double(values[a * size + k]) - values[b * size + k];
        sum += difference * difference;
      }
      distances.push_back(std::sqrt(sum));
    }
  return distances;
}

inline double mean_of(std::span<const double> values) {
  return std::accumulate(values.begin(), values.end(), 0.0) / double(std::max<std::size_t>(1, values.size()));
}

/// Covariances of some columns, a square matrix; of these rows themselves, as column_variances.
inline std::vector<double> covariances(std::span<const float> values, std::size_t size,
                                       std::span<const std::size_t> columns) {
  const auto means = column_means(values, size);
  const std::size_t rows = values.size() / size, count = columns.size();
  std::vector<double> matrix(count * count), centred(count);
  for (std::size_t r = 0; r < rows; ++r) {
    for (std::size_t i = 0; i < count; ++i) centred[i] = values[r * size + columns[i]] - means[columns[i]];
    for (std::size_t i = 0; i < count; ++i)
      for (std::size_t j = 0; j <= i; ++j) matrix[i * count + j] += centred[i] * centred[j] / double(rows);
  }
  for (std::size_t i = 0; i < count; ++i)
    for (std::size_t j = 0; j < i; ++j) matrix[j * count + i] = matrix[i * count + j];
  return matrix;
}

/// The covariances, each divided by both standard deviations; 0 where one of them is 0.
inline std::vector<double> correlations(std::span<const float> values, std::size_t size,
                                        std::span<const std::size_t> columns) {
  auto matrix = covariances(values, size, columns);
  const std::size_t count = columns.size();
  std::vector<double> deviations(count);
  for (std::size_t i = 0; i < count; ++i) deviations[i] = std::sqrt(matrix[i * count + i]);
  for (std::size_t i = 0; i < matrix.size(); ++i) {
    const double both = deviations[i / count] * deviations[i % count];
    matrix[i] = both > 0 ? matrix[i] / both : 0;
  }
  return matrix;
}

/// Eigenvalues of a symmetric matrix, the largest first, and its eigenvectors as rows of unit length.
struct Eigen {
  std::vector<double> values, vectors;
};

/// By the cyclic method of Jacobi (Golub and Van Loan, section 8.5): each rotation makes one element off the diagonal
/// zero.
inline Eigen eigen_of_symmetric(std::vector<double> a, std::size_t n) {
  detail::check_equal(a.size(), n * n);
  std::vector<double> v(n * n);
  for (std::size_t i = 0; i < n; ++i) v[i * n + i] = 1;
  for (int sweep = 0; sweep < 60; ++sweep) {
    double off = 0, all = 0;
    for (std::size_t i = 0; i < a.size(); ++i) all += a[i] * a[i], off += i / n != i % n ? a[i] * a[i] : 0;
    if (!(off > 1e-28 * all)) break;
    for (std::size_t p = 0; p < n; ++p)
      for (std::size_t q = p + 1; q < n; ++q) {
        if (a[p * n + q] == 0) continue;
        const double theta = (a[q * n + q] - a[p * n + p]) / (2 * a[p * n + q]);
        const double t = (theta < 0 ? -1 : 1) / (std::abs(theta) + std::hypot(theta, 1.0)), c = 1 / std::hypot(t, 1.0),
                     s = t * c;
        const auto rotate = [&](double& x, double& y) {
          const double before = x;
          x = c * x - s * y, y = s * before + c * y;
        };
        for (std::size_t k = 0; k < n; ++k) rotate(a[k * n + p], a[k * n + q]);
        for (std::size_t k = 0; k < n; ++k) rotate(a[p * n + k], a[q * n + k]);
        for (std::size_t k = 0; k < n; ++k) rotate(v[p * n + k], v[q * n + k]);
      }
  }
  std::vector<double> values(n);
  for (std::size_t i = 0; i < n; ++i) values[i] = a[i * n + i];
  Eigen result;
  for (const std::size_t i : descending(values)) {
    result.values.push_back(values[i]);
    result.vectors.insert(result.vectors.end(), v.begin() + long(i * n), v.begin() + long((i + 1) * n));
  }
  return result;
}

/// The first two principal components of rows: the directions in which they vary most.
struct PrincipalPlane {
  std::vector<float> x, y;          ///< of each row
  double x_share = 0, y_share = 0;  ///< of the variance of all columns
};

/// Of more than `most` columns only those of the largest variance take part.
inline PrincipalPlane principal_plane(std::span<const float> values, std::size_t size, std::size_t most = 128) {
  const auto variances = column_variances(values, size), means = column_means(values, size);
  auto columns = descending(variances);
  columns.resize(std::min(most, size));
  const Eigen eigen = eigen_of_symmetric(covariances(values, size, columns), columns.size());
  const double total = std::accumulate(variances.begin(), variances.end(), 0.0);
  PrincipalPlane plane;
  const auto project = [&](std::size_t axis, std::vector<float>& to, double& share) {
    to.resize(values.size() / size);
    if (axis >= eigen.values.size()) return;  // one column only
    share = total > 0 ? eigen.values[axis] / total : 0;
    for (std::size_t r = 0; r < to.size(); ++r) {
      double sum = 0;
      for (std::size_t i = 0; i < columns.size(); ++i)
        sum += eigen.vectors[axis * columns.size() + i] * (values[r * size + columns[i]] - means[columns[i]]);
      to[r] = float(sum);
    }
  };
  project(0, plane.x, plane.x_share), project(1, plane.y, plane.y_share);
  return plane;
}

/// The number that a share p of a standard normal distribution lies below, 0 < p < 1. By bisection, to 1e-12.
inline double inverse_normal(double p) {
  double low = -40, high = 40;
  for (int i = 0; i < 60; ++i)
    (0.5 * std::erfc(-(low + high) / 2 / std::sqrt(2.0)) < p ? low : high) = (low + high) / 2;
  return (low + high) / 2;
}

}  // namespace metrics
}  // namespace vaelib::inline VAELIB_ABI
