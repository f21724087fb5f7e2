// Probabilistic PCA has everything in closed form: x = W z + noise, z ~ N(0, I); Tipping & Bishop 1999.
#include <doctest/doctest.h>

#include <cmath>
#include <vaelib/vae.hpp>

using namespace vaelib;

namespace {

using Model = Vae<Sequential<Shape{3}>, Gaussian<1>, Sequential<Shape{1}, Linear<3>>, FixedGaussian>;
constexpr double loading[] = {0.7, -1.2, 0.4}, noise_variance = 0.25;
constexpr double loading_squared = 0.7 * 0.7 + 1.2 * 1.2 + 0.4 * 0.4;

/// W in the decoder; in the encoder the posterior, exact but for a factor on its standard deviation.
Weights<Model, Cpu> weights_of(double factor) {
  Model model;
  model.likelihood.sigma = std::sqrt(float(noise_variance));
  Weights<Model, Cpu> weights(model);
  const double variance = 1 / (1 + loading_squared / noise_variance), logvar = std::log(variance) + 2 * std::log(factor);
  for (const auto& [name, p] : weights.parameters) {
    float* values = weights.values.data() + p.offset;
    std::fill_n(values, p.size(), 0.0f);
    for (int i = 0; i < 3; ++i) {
      if (name == "decoder.0.weight") values[i] = float(loading[i]);
      if (name == "encoder.0.weight") values[2 * i] = float(variance * loading[i] / noise_variance);
    }
    if (name == "encoder.0.bias") values[1] = float(20 * std::atanh(logvar / 20));
  }
  return weights;
}
/// log N(x; 0, W W' + s2 I)
double log_likelihood(const float* x) {
  double xx = 0, wx = 0;
  for (int i = 0; i < 3; ++i) xx += double(x[i]) * x[i], wx += loading[i] * double(x[i]);
  const double quadratic = (xx - wx * wx / (noise_variance + loading_squared)) / noise_variance;
  const double log_determinant = 2 * std::log(noise_variance) + std::log(noise_variance + loading_squared);
  return -0.5 * (quadratic + log_determinant + 3 * std::log(2 * 3.14159265358979));
}
const std::vector<float> points{1, 2, 3, -0.5f, 0.2f, 0.1f, 0, 0, 0};

}  // namespace

TEST_CASE("with the exact posterior every number of samples gives log p(x)") {
  const auto weights = weights_of(1);
  Session session(weights);
  for (const int samples : {1, 2, 50}) {
    const Evidence evidence = session.evidence(points, samples, 3);
    for (std::size_t r = 0; r < 3; ++r) {
      CHECK(std::abs(evidence.log_likelihood[r] - log_likelihood(&points[3 * r])) < 1e-5);
      CHECK(std::abs(evidence.elbo[r] - log_likelihood(&points[3 * r])) < 6 / std::sqrt(double(samples)));
    }
  }
}

TEST_CASE("with another posterior the estimate rises to log p(x), and the ELBO stays below by the KL divergence") {
  constexpr double factor = 1.5;
  const auto weights = weights_of(factor);
  Session session(weights);
  const double kl = 0.5 * (factor * factor - 1) - std::log(factor);  // of q from the exact posterior
  std::vector<float> many;
  for (int copy = 0; copy < 2000; ++copy) many.insert(many.end(), points.begin() + 3, points.begin() + 6);
  const double exact = log_likelihood(&points[3]);
  double before = -INFINITY;
  for (const int samples : {1, 5, 200}) {
    const Evidence evidence = session.evidence(many, samples, 1);
    double mean = 0, elbo = 0;
    for (std::size_t r = 0; r < 2000; ++r) mean += evidence.log_likelihood[r] / 2000, elbo += evidence.elbo[r] / 2000;
    CHECK(mean > before);
    CHECK(mean < exact + 0.01);
    CHECK(std::abs(elbo - (exact - kl)) < 0.1);
    before = mean;
  }
  CHECK(std::abs(before - exact) < 0.01);
  CHECK_THROWS_AS(session.evidence(points, 0), Error);
}
