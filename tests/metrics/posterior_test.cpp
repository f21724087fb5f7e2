// How much of a latent is used, and what its KL divergence is made of: cases with known answers.
#include <doctest/doctest.h>

#include <vaelib/metrics/posterior.hpp>

using namespace vaelib;

namespace {

using Floats = std::vector<float>;

/// Rows of standard normal numbers.
Floats normals(std::size_t rows, std::size_t size, std::uint64_t seed) {
  Floats x(rows * size);
  normal(RandomKey{seed}, 0, long(rows), int(size), x.data());
  return x;
}

/// The encoder of a Gaussian channel z = a s + b e with unit variance: q(z|x) = N(a s, b^2), I(x; z) = -log b a dimension.
struct Channel {
  Floats means, log_variances;
  Channel(std::size_t rows, std::vector<float> deviations, std::uint64_t seed) {
    means = normals(rows, deviations.size(), seed);
    for (std::size_t k = 0; k < means.size(); ++k) {
      const float b = deviations[k % deviations.size()];
      means[k] *= std::sqrt(1 - b * b);
      log_variances.push_back(2 * std::log(b));
    }
  }
};

}  // namespace

TEST_CASE("posterior_use: each number by hand") {
  // dimension 0 tells two samples apart, dimension 1 moves without a KL worth the name, dimension 2 is the prior
  const Floats means{2, 0.2f, 0, -2, -0.2f, 0}, logvars{-2, 0, 0, -2, 0, 0};
  const auto u = metrics::posterior_use(means, logvars, 3);
  const double first = 0.5 * (4 + std::exp(-2.0) - 1 + 2);
  CHECK(u.samples == 2);
  CHECK(u.kl[0] == doctest::Approx(first));
  CHECK(u.kl[1] == doctest::Approx(0.02));
  CHECK(u.kl[2] == 0);
  CHECK(u.avg_kl == doctest::Approx((first + 0.02) / 3));
  CHECK(u.avg_active_units == 2);  // variances 4, 0.04, 0
  CHECK(u.active_by_kl == 1);
  CHECK(u.collapse_ratio == doctest::Approx(2.0 / 3));
  CHECK(u.latent_utilization_ratio == doctest::Approx(2.0 / 3));
  CHECK(u.spreads[0] == doctest::Approx(std::exp(-1.0)));
  CHECK(u.val_z_var == doctest::Approx((4 + std::exp(-2.0) + 0.04 + 1 + 1) / 3));
  CHECK(u.effective_latent_dims == doctest::Approx(1));  // both samples lie on a line
  CHECK(u.kl_quantiles[0][1] == doctest::Approx(first));
  CHECK(metrics::posterior_use(means, logvars, 3, {.kl = 0.01, .variance = 0.05}).active_by_kl == 2);
  CHECK(metrics::posterior_use(means, logvars, 3, {.kl = 0.01, .variance = 0.05}).avg_active_units == 1);
  const Floats kl{1, 2, 0, 3, 2, 0};
  CHECK(metrics::posterior_use(means, logvars, 3, {}, kl).kl == std::vector<double>{2, 2, 0});
  CHECK_THROWS_AS(metrics::posterior_use(means, logvars, 4), Error);
  CHECK_THROWS_AS(metrics::posterior_use(means, Floats(3), 3), Error);
}

TEST_CASE("effective dimensions: as many as directions of equal variance") {
  auto means = normals(4000, 6, 3);
  for (std::size_t k = 0; k < means.size(); ++k)
    if (k % 6 >= 4) means[k] = means[k / 6 * 6];  // two are copies
  const auto u = metrics::posterior_use(means, Floats(means.size(), -1.0f), 6);
  CHECK(u.effective_latent_dims == doctest::Approx(36.0 / (9 + 3)).epsilon(0.02));  // eigenvalues 3, 1, 1, 1
}

TEST_CASE("kl_decomposition: the mutual information and total correlation of Gaussian channels") {
  const auto within = [](const metrics::Estimate& e, double wanted) {
    INFO(e.value, " +- ", e.error, ", expected ", wanted);
    CHECK(std::abs(e.value - wanted) < 5 * e.error + 0.01);
    CHECK(e.error < 0.1);
  };
  const Channel channel(2000, {0.5f, 0.8f, 1.0f}, 5);
  const auto k = metrics::kl_decomposition(channel.means, channel.log_variances, 3, 1, 2000);
  CHECK(k.samples == 2000);
  CHECK(k.bound == doctest::Approx(std::log(2000.0)));
  within(k.mutual_information, -std::log(0.5) - std::log(0.8));
  within(k.total_correlation, 0);  // independent dimensions
  within(k.kl, k.closed_form);
  CHECK(k.mutual_information.value + k.total_correlation.value + k.dimension_wise.value == doctest::Approx(k.kl.value).epsilon(1e-9));
  CHECK(k.mutual_information.value <= k.closed_form + 5 * k.mutual_information.error);

  // both dimensions carry the same signal: q(z) has the correlation a^2
  Channel twins(2000, {0.6f, 0.6f}, 7);
  for (std::size_t i = 0; i < twins.means.size(); i += 2) twins.means[i + 1] = twins.means[i];
  const auto t = metrics::kl_decomposition(twins.means, twins.log_variances, 2, 1, 2000);
  const double rho = 1 - 0.36;
  within(t.total_correlation, -0.5 * std::log(1 - rho * rho));
  within(t.mutual_information, 0.5 * std::log((1 + rho) * (1 - rho)) - 2 * std::log(0.6));
}

TEST_CASE("kl_decomposition: few samples bound the mutual information, more of them take the bias away") {
  const Channel sharp(2000, {0.05f, 0.05f}, 9);
  const double truth = -2 * std::log(0.05);
  double before = 1e9;
  for (const std::size_t rows : {20u, 200u, 2000u}) {
    const auto k = metrics::kl_decomposition(sharp.means, sharp.log_variances, 2, 3, rows);
    CHECK(k.mutual_information.value <= k.bound + 1e-9);
    const double bias = truth - k.mutual_information.value;
    CHECK(bias < before);
    before = bias;
  }
  CHECK(before < 0.7);
  const auto nothing = metrics::kl_decomposition(Floats(400, 0.0f), Floats(400, 0.0f), 4);
  CHECK(nothing.mutual_information.value == doctest::Approx(0).epsilon(1e-9));
  CHECK(nothing.closed_form == 0);
}

TEST_CASE("effective dimensions of more dimensions than samples and of more than are shown: the same by either way") {
  constexpr std::size_t size = 130;
  std::vector<float> means(140 * size), logvar(140 * size);
  normal(RandomKey{.seed = 2}, 0, 140, int(size), means.data());
  std::vector<std::size_t> all(size);
  std::iota(all.begin(), all.end(), std::size_t{0});
  for (const std::size_t rows : {140, 40}) {
    const std::span<const float> x(means.data(), rows * size), v(logvar.data(), rows * size);
    const auto u = metrics::posterior_use(x, v, size);
    double sum = 0, squares = 0;
    const auto covariances = metrics::covariances(x, size, all);
    for (std::size_t k = 0; k < covariances.size(); ++k) sum += k % (size + 1) == 0 ? covariances[k] : 0, squares += covariances[k] * covariances[k];
    CHECK(u.effective_latent_dims == doctest::Approx(sum * sum / squares));
    CHECK(u.eigenvalues.size() == 128);
  }
}
