// The parts of the KL divergence from a batch: gradients, and known answers.
#include <doctest/doctest.h>

#include <vaelib/core/random.hpp>
#include <vaelib/regularizers/kl_decomposition.hpp>
#include <vaelib/train/gradient_check.hpp>

using namespace vaelib;

namespace {

using Floats = std::vector<float>;

struct Nothing {
  void fields(auto&&) {}
};

/// I, TC and DW of rows of mean, log-variance and noise.
struct Parts {
  double information, correlation, dimension_wise;
};
Parts parts_of(const Floats& means, const Floats& logvars, long size, std::int64_t dataset_size, std::uint64_t seed, int threads = 1) {
  const long rows = long(means.size()) / size;
  Floats z(means.size());
  normal(RandomKey{seed}, 0, rows, int(size), z.data());
  for (std::size_t k = 0; k < z.size(); ++k) z[k] = means[k] + z[k] * std::exp(logvars[k] / 2);
  Cpu cpu(threads);
  Step<Cpu> step(cpu);
  step.begin({}, Mode::evaluation, 1, rows, Stream::noise);
  constexpr Shape any{dynamic};
  const auto* space = step.rows(rows);
  const auto constant = [&](const Floats& x) { return step.constant<any>(space, Shape{int(size)}, x.data()); };
  const auto y = kl_decomposition(step, constant(means), constant(logvars), constant(z), dataset_size);
  return {double(y.value()[0]), double(y.value()[1]), double(y.value()[2])};
}

}  // namespace

TEST_CASE("kl_decomposition: gradients of each part") {
  for (const std::int64_t dataset_size : {5, 6, 1000}) {
    const auto report = gradient_check<Shape{9}>(
        Nothing{},
        [=](auto& s, const auto&, auto x) {
          return kl_decomposition(s, columns<Shape{3}>(s, x, 0), columns<Shape{3}>(s, x, 3), columns<Shape{3}>(s, x, 6), dataset_size);
        },
        {}, Shape{9});
    INFO(dataset_size, ": ", report.summary());
    CHECK(report.passed());
  }
}

TEST_CASE("kl_decomposition: weights, by hand") {
  // two samples of one dimension, N = 10: q(z_0) = 1/10 q(z_0|x_0) + 9/10 q(z_0|x_1)
  const Floats means{-1, 2}, logvars{0, 0};
  double information = 0, dimension_wise = 0;
  float noise[2];
  normal(RandomKey{3}, 0, 2, 1, noise);
  const auto density = [](double z, double mean) { return std::exp(-0.5 * (z - mean) * (z - mean)) / std::sqrt(2 * 3.14159265358979324); };
  for (int i = 0; i < 2; ++i) {
    const double z = double(means[std::size_t(i)]) + double(noise[i]), own = density(z, double(means[std::size_t(i)])), other = density(z, double(means[std::size_t(1 - i)]));
    const double q = 0.1 * own + 0.9 * other;
    information += 0.5 * std::log(own / q);
    dimension_wise += 0.5 * std::log(q / density(z, 0));
  }
  const Parts p = parts_of(means, logvars, 1, 10, 3);
  CHECK(p.information == doctest::Approx(information).epsilon(1e-5));
  CHECK(p.correlation == doctest::Approx(0).epsilon(1e-6));  // one dimension
  CHECK(p.dimension_wise == doctest::Approx(dimension_wise).epsilon(1e-5));
  const Parts one = parts_of({0.5f}, {-1.0f}, 1, 1, 1);  // a data set of one sample: q(z) = q(z|x)
  CHECK(one.information == 0);
  CHECK_THROWS_AS(parts_of(means, logvars, 1, 1, 3), Error);
}

TEST_CASE("kl_decomposition: the parts add up to the KL divergence by Monte Carlo; independent dimensions have no total correlation") {
  const long rows = 1500, size = 4;
  Floats means(rows * size), logvars(rows * size, 2 * std::log(0.6f)), noise(rows * size);
  normal(RandomKey{11}, 0, rows, int(size), means.data());
  for (float& m : means) m *= 0.8f;
  const Parts p = parts_of(means, logvars, size, rows, 5);
  double sum = 0, squares = 0;
  normal(RandomKey{5}, 0, rows, int(size), noise.data());
  for (long i = 0; i < rows; ++i) {
    double log_ratio = 0;  // log q(z|x) - log p(z)
    for (long d = 0; d < size; ++d) {
      const double e = double(noise[std::size_t(i * size + d)]), z = double(means[std::size_t(i * size + d)]) + 0.6 * e;
      log_ratio += -std::log(0.6) - 0.5 * e * e + 0.5 * z * z;
    }
    sum += log_ratio;
    squares += log_ratio * log_ratio;
  }
  const double kl = sum / double(rows), error = std::sqrt((squares / double(rows) - kl * kl) / double(rows));
  CHECK(p.information + p.correlation + p.dimension_wise == doctest::Approx(kl).epsilon(1e-4));
  CHECK(std::abs(p.information + 4 * std::log(0.6)) < 5 * error);
  CHECK(std::abs(p.correlation) < 5 * error);
  const Parts more = parts_of(means, logvars, size, rows, 5, 4);
  CHECK(more.information == p.information);
  CHECK(more.correlation == p.correlation);
}
