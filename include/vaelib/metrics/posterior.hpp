// How much of its latent a VAE uses, dimension by dimension, and what its KL divergence is made of.
//
// Of N samples x_i with q(z|x_i) = N(mean_i, diag exp(log_variance_i)), rows of `size` numbers; nats everywhere.
//
//   KL_d                       mean over i of KL(q(z_d|x_i) || p(z_d))
//   collapse_ratio             share of dimensions with KL_d below a threshold (pc_threshold, 0.1)
//   active units               dimensions whose mean moves: Var_i(mean_id) > 0.01; Burda et al. 2016, section 5.2
//   latent_utilization_ratio   active units / dimensions
//   effective_latent_dims      (sum l)^2 / sum l^2 of the eigenvalues l of the covariance of the means (participation ratio)
//   avg_kl                     mean over d of KL_d, so nats a dimension: a threshold for it does not depend on the size
//   val_z_var                  mean over d of the variance of the aggregated posterior, Var_i(mean_id) + mean_i(variance_id); 1 as the prior
//
//   KL(q(z|x) || p(z)) = I(x; z) + TC + sum_d KL(q(z_d) || p(z_d))       Hoffman and Johnson 2016; Chen et al. 2018, equation 2
//
// with the aggregated posterior q(z) = mean_i q(z|x_i), I(x; z) the mutual information of index and code and
// TC = KL(q(z) || prod_d q(z_d)) the total correlation.
#pragma once

#include <vaelib/core/random.hpp>
#include <vaelib/metrics/diagnostics.hpp>

#include <array>

namespace vaelib::inline VAELIB_ABI {
namespace metrics {

/// Of the judgement; the first two also define what is counted.
struct CollapseThresholds {
  double kl = 0.1;                        ///< nats: a dimension below has collapsed; pc_threshold
  double variance = active_variance;      ///< of a dimension's means: one above is active
  double collapsed = 0.8, healthy = 0.5;  ///< collapse_ratio above the first is collapse, below the second is well
  double idle = 0.3, used = 0.6;          ///< latent_utilization_ratio below the first is bad, above the second is well
  double low_kl = 0.1;                    ///< nats a dimension: avg_kl below is bad
  double high_kl = 5;                     ///< nats a dimension: above, samples of the prior are unlike codes
  double narrow = 0.1;                    ///< mean standard deviation of q(z|x) below is nearly an autoencoder
};

/// By level of a hierarchy, or of the only one.
struct PosteriorUse {
  std::int64_t samples = 0, dimensions = 0;
  std::vector<double> kl;                           ///< KL_d
  std::vector<std::array<double, 3>> kl_quantiles;  ///< 10, 50 and 90 % of the samples lie below, by dimension
  std::vector<double> mean_variances;               ///< Var_i(mean_id)
  std::vector<double> spreads;                      ///< mean_i of the standard deviation of q(z_d|x_i)
  std::vector<double> eigenvalues;                  ///< of the covariance of the means, the largest first; of the 128 that vary most, where there are more
  double avg_kl = 0, avg_active_units = 0, collapse_ratio = 0, latent_utilization_ratio = 0, effective_latent_dims = 0, val_z_var = 0;
  std::int64_t active_by_kl = 0;  ///< dimensions with KL_d of at least the threshold
};

namespace detail {
inline double quantile(std::vector<double>& values, double share) {
  const auto at = values.begin() + long(std::min<std::size_t>(values.size() - 1, std::size_t(share * double(values.size()))));
  std::nth_element(values.begin(), at, values.end());
  return *at;
}
/// The sum of squares of all covariances of the columns, which is that of their eigenvalues; by the products of rows, where these
/// are fewer.
inline double squared_covariances(std::span<const float> values, std::size_t size) {
  const std::size_t rows = values.size() / size;
  const auto means = column_means(values, size);
  std::vector<double> centred(values.begin(), values.end());
  for (std::size_t k = 0; k < centred.size(); ++k) centred[k] -= means[k % size];
  const bool of_rows = rows < size;
  const std::size_t lines = of_rows ? rows : size, length = of_rows ? size : rows, next_line = of_rows ? size : 1, next = of_rows ? 1 : size;
  double all = 0;
  for (std::size_t i = 0; i < lines; ++i)
    for (std::size_t j = 0; j <= i; ++j) {
      double product = 0;
      for (std::size_t k = 0; k < length; ++k) product += centred[i * next_line + k * next] * centred[j * next_line + k * next];
      all += (i == j ? 1 : 2) * product * product / double(rows) / double(rows);
    }
  return all;
}
}  // namespace detail

/// `kl`: rows of KL divergences where the prior is not N(0, 1), as that of a level below another; else they are computed.
inline PosteriorUse posterior_use(std::span<const float> means, std::span<const float> log_variances, std::size_t size,
                                  const CollapseThresholds& thresholds = {}, std::span<const float> kl = {}) {
  const std::size_t rows = detail::rows_of(means, size);
  detail::check_equal(means.size(), log_variances.size());
  if (!kl.empty()) detail::check_equal(means.size(), kl.size());
  PosteriorUse u;
  u.samples = std::int64_t(rows);
  u.dimensions = std::int64_t(size);
  u.mean_variances = column_variances(means, size);
  std::vector<double> column(rows);
  for (std::size_t d = 0; d < size; ++d) {
    double sum = 0, spread = 0, variance = 0;
    for (std::size_t i = 0; i < rows; ++i) {
      const double mean = means[i * size + d], log_variance = log_variances[i * size + d];
      column[i] = kl.empty() ? 0.5 * (mean * mean + std::expm1(log_variance) - log_variance) : double(kl[i * size + d]);
      sum += column[i];
      spread += std::exp(log_variance / 2);
      variance += std::exp(log_variance);
    }
    u.kl.push_back(sum / double(rows));
    u.spreads.push_back(spread / double(rows));
    u.val_z_var += (u.mean_variances[d] + variance / double(rows)) / double(size);
    u.kl_quantiles.push_back({detail::quantile(column, 0.1), detail::quantile(column, 0.5), detail::quantile(column, 0.9)});
    u.avg_kl += u.kl[d] / double(size);
    u.active_by_kl += u.kl[d] >= thresholds.kl;
    u.avg_active_units += u.mean_variances[d] > thresholds.variance;
  }
  u.collapse_ratio = 1 - double(u.active_by_kl) / double(size);
  u.latent_utilization_ratio = u.avg_active_units / double(size);
  constexpr std::size_t most = 128;
  auto columns = descending(u.mean_variances);
  columns.resize(std::min(most, size));
  u.eigenvalues = eigen_of_symmetric(covariances(means, size, columns), columns.size()).values;
  for (double& l : u.eigenvalues) l = std::max(l, 0.0);
  const double sum = std::accumulate(u.mean_variances.begin(), u.mean_variances.end(), 0.0), squares = detail::squared_covariances(means, size);
  u.effective_latent_dims = squares > 0 ? sum * sum / squares : 0;
  return u;
}

/// An estimate and its standard error.
struct Estimate {
  double value = 0, error = 0;
};

/// What the KL divergence is made of. Where q(z) is made of N samples, no estimate of I(x; z) can exceed log N: near it,
/// take more samples.
struct KlDecomposition {
  std::int64_t samples = 0;
  double closed_form = 0;  ///< KL(q(z|x) || p(z)), the sum over dimensions
  Estimate kl;             ///< the same by Monte Carlo: the sum of the next three
  Estimate mutual_information, total_correlation, dimension_wise;
  double bound = 0;        ///< log N
};

/// One z of each q(z|x_i) against the aggregated posterior of the same samples: N^2 size exponentials. Rows beyond `most`
/// are left out.
inline KlDecomposition kl_decomposition(std::span<const float> means, std::span<const float> log_variances, std::size_t size,
                                        std::uint64_t seed = 0, std::size_t most = 1000) {
  const std::size_t rows = std::min(most, detail::rows_of(means, size));
  detail::check_equal(means.size(), log_variances.size());
  std::vector<float> noise(rows * size);
  normal(RandomKey{seed}, 0, long(rows), int(size), noise.data());
  constexpr double log_2pi = 1.8378770664093454836;
  std::vector<double> precision(rows * size), normaliser(rows * size);
  KlDecomposition result;
  result.samples = std::int64_t(rows);
  result.bound = std::log(double(rows));
  for (std::size_t k = 0; k < rows * size; ++k) {
    const double mean = means[k], log_variance = log_variances[k];
    precision[k] = std::exp(-log_variance);
    normaliser[k] = -0.5 * (log_2pi + log_variance);
    result.closed_form += 0.5 * (mean * mean + std::expm1(log_variance) - log_variance) / double(rows);
  }
  std::array<double, 4> sums{}, squares{};
  std::vector<double> joint(rows), by_dimension(rows * size), z(size);
  for (std::size_t i = 0; i < rows; ++i) {
    double own = 0, prior = 0;
    for (std::size_t d = 0; d < size; ++d) {
      const std::size_t k = i * size + d;
      z[d] = means[k] + noise[k] * std::exp(log_variances[k] / 2.0);
      own += normaliser[k] - 0.5 * double(noise[k]) * noise[k];
      prior += -0.5 * (log_2pi + z[d] * z[d]);
    }
    for (std::size_t j = 0; j < rows; ++j) {
      joint[j] = 0;
      for (std::size_t d = 0; d < size; ++d) {
        const std::size_t k = j * size + d;
        const double gap = z[d] - means[k];
        joint[j] += by_dimension[d * rows + j] = normaliser[k] - 0.5 * gap * gap * precision[k];
      }
    }
    const auto log_mean_exp = [&](const double* first) {
      const double largest = *std::max_element(first, first + rows);
      double sum = 0;
      for (std::size_t j = 0; j < rows; ++j) sum += std::exp(first[j] - largest);
      return largest + std::log(sum) - result.bound;
    };
    const double aggregated = log_mean_exp(joint.data());
    double product = 0;
    for (std::size_t d = 0; d < size; ++d) product += log_mean_exp(by_dimension.data() + d * rows);
    const std::array<double, 4> terms{own - prior, own - aggregated, aggregated - product, product - prior};
    for (std::size_t t = 0; t < 4; ++t) sums[t] += terms[t], squares[t] += terms[t] * terms[t];
  }
  const auto estimate = [&](std::size_t t) {
    const double n = double(rows), mean = sums[t] / n;
    return Estimate{mean, n > 1 ? std::sqrt(std::max(0.0, squares[t] / n - mean * mean) / (n - 1)) : INFINITY};
  };
  result.kl = estimate(0);
  result.mutual_information = estimate(1);
  result.total_correlation = estimate(2);
  result.dimension_wise = estimate(3);
  return result;
}

}  // namespace metrics
}  // namespace vaelib::inline VAELIB_ABI
