// Likelihoods, the Gaussian latent and the ELBO: gradients, closed forms, and probabilistic PCA as an oracle.
#include <doctest/doctest.h>

#include <vaelib/layers/flatten.hpp>
#include <vaelib/likelihoods/continuous_bernoulli.hpp>
#include <vaelib/likelihoods/laplace.hpp>
#include <vaelib/metrics/posterior.hpp>
#include <vaelib/models/vae.hpp>
#include <vaelib/schedules/schedule.hpp>
#include <vaelib/train/gradient_check.hpp>
#include <vaelib/train/session.hpp>
#include <vaelib/train/trainer.hpp>

using namespace vaelib;

namespace {

using Floats = std::vector<float>;
constexpr double pi = 3.14159265358979323846;

template <class Real>
constexpr std::array<Real, 35> targets = [] {  // within [0, 1], both ends included
  std::array<Real, 35> t{};
  for (int i = 0; i < 35; ++i) t[i] = Real(i * 11 % 35) / 34;
  return t;
}();

/// One value and its gradients with regard to the numbers of one flat variable.
struct Evaluated {
  Floats value, gradient;
};
/// f(step, x) for rows x Width given numbers; gradients of the mean over the rows.
template <int Width>
Evaluated evaluate(const Floats& numbers, auto f) {
  Cpu cpu(1);
  Step<Cpu> step(cpu);
  step.begin({}, Mode::training, 1, 1, Stream::noise);
  const long rows = long(numbers.size()) / Width;
  auto x = step.template variable<Shape{Width}>(step.rows(rows), Width, true);
  std::copy(numbers.begin(), numbers.end(), x.value());
  const auto y = f(step, x);
  step.backward(mean_rows(step, sum_features(step, y)));
  return {{y.value(), y.value() + y.size()}, {step.gradient(x), step.gradient(x) + x.size()}};
}

template <class Model>
void check_gradient(const std::string& name, Model model, auto forward, GradientCheckOptions options = {}) {
  const auto report = gradient_check<Shape{14}>(model, forward, options);
  INFO(name, ": ", report.summary());
  CHECK(report.passed());
}
/// nll of the first 7 of 14 features.
constexpr auto nll_of = [](auto likelihood) {
  return [=](auto& step, const auto&, auto x) {
    using Real = typename decltype(x)::Real;
    const auto mean = columns<Shape{7}>(step, x, 0);
    const auto target = step.template constant<Shape{7}>(x.space(), 7, targets<Real>.data());
    return likelihood.nll(step, mean, target);
  };
};
struct Nothing {
  void fields(auto&&) {}
};

/// The ELBO of 14 features: mu and raw log-variance of 7 dimensions, which are decoded by the identity.
constexpr auto elbo_of = [](const ElboOptions& options, float beta, float capacity) {
  return [=](auto& step, const auto&, auto x) {
    using Real = typename decltype(x)::Real;
    step.beta = step.scalar(beta);
    step.capacity = step.scalar(capacity);
    const Gaussian<7> latent{};
    const auto q = latent.posterior(step, x);
    const auto target = step.template constant<Shape{7}>(x.space(), 7, targets<Real>.data());
    return negative_elbo(step, options, Bernoulli{}.nll(step, latent.sample(step, q), target), latent.kl(step, q))
        .objective;
  };
};

/// KL(N(mu, exp(logvar)) || N(0, 1)), from the textbook.
double kl_of(double mu, double logvar) { return 0.5 * (mu * mu + std::exp(logvar) - 1 - logvar); }
double clamped(double raw) { return 20 * std::tanh(raw / 20); }

}  // namespace

TEST_CASE("gradients of likelihoods") {
  check_gradient("Bernoulli", Nothing{}, nll_of(Bernoulli{}));
  check_gradient("Bernoulli", Nothing{}, nll_of(Bernoulli{}), {.rows = 1, .input_scale = 20});
  FixedGaussian fixed_gaussian;
  fixed_gaussian.sigma = 0.3f;
  check_gradient("FixedGaussian", Nothing{}, nll_of(fixed_gaussian));
  check_gradient("LearnedGaussian", LearnedGaussian{},
                 [](auto& step, const auto& learned, auto x) { return nll_of(learned)(step, learned, x); },
                 {.rows = 3});
  check_gradient("OptimalGaussian", Nothing{}, nll_of(OptimalGaussian{}));
  check_gradient("Laplace", Nothing{}, nll_of(Laplace{.scale = 0.3f}));
  check_gradient("LearnedLaplace", LearnedLaplace{},
                 [](auto& step, const auto& learned, auto x) { return nll_of(learned)(step, learned, x); },
                 {.rows = 3});
  for (const double scale : {0.1, 1.0, 20.0})  // by the series near 0, and beyond
    check_gradient("ContinuousBernoulli", Nothing{}, nll_of(ContinuousBernoulli{}), {.rows = 3, .input_scale = scale});
  check_gradient("ContinuousBernoulli, mean", Nothing{},
                 [](auto& step, const auto&, auto x) { return ContinuousBernoulli{}.mean(step, x); });
}

TEST_CASE("gradients of the latent and of the ELBO") {
  const auto latent = Gaussian<7>{};
  check_gradient("sample", Nothing{},
                 [=](auto& step, const auto&, auto x) { return latent.sample(step, latent.posterior(step, x)); });
  check_gradient("kl", Nothing{},
                 [=](auto& step, const auto&, auto x) { return latent.kl(step, latent.posterior(step, x)); },
                 {.input_scale = 2});
  check_gradient("kl, clamped", Nothing{}, [=](auto& step, const auto&, auto x) {
    Gaussian<7> narrow;
    narrow.logvar_limit = 2;
    return narrow.kl(step, narrow.posterior(step, x));
  });
  check_gradient("ELBO", Nothing{}, elbo_of({}, 1, 0));
  check_gradient("beta", Nothing{}, elbo_of({}, 4, 0));
  check_gradient("free bits", Nothing{}, elbo_of({.free_bits = 0.6f}, 2, 0));  // some dimensions above, some below
  check_gradient("capacity above", Nothing{}, elbo_of({.use_capacity = true}, 3, 2));
  check_gradient("capacity below", Nothing{}, elbo_of({.use_capacity = true}, 3, 200), {.epsilon = 1e-5});
}

TEST_CASE("Bernoulli: -log p is softplus(logit) - logit x, at any logit") {
  const float logits[] = {-1e4f, -50, -3, -1e-3f, 0, 0.5f, 17, 90, 1e4f};
  for (const float target : {0.0f, 0.3f, 1.0f})
    for (const float logit : logits) {
      const auto found = evaluate<1>({logit}, [&](auto& step, auto x) {
        return Bernoulli{}.nll(step, x, step.template constant<Shape{1}>(x.space(), 1, &target));
      });
      const double l = logit, t = target, softplus = l > 0 ? l + std::log1p(std::exp(-l)) : std::log1p(std::exp(l));
      const double wanted = l > 0 ? l * (1 - t) + std::log1p(std::exp(-l)) : softplus - l * t,
                   slope = 1 / (1 + std::exp(-l)) - t;
      INFO("logit ", logit, ", target ", target);
      CHECK(std::isfinite(found.value[0]));
      CHECK(std::abs(found.value[0] - wanted) <= 2e-7 * std::max(std::abs(l), 1.0));
      CHECK(std::abs(found.gradient[0] - slope) <= 2e-7);
    }
}

TEST_CASE("ContinuousBernoulli: a density of mean E[x], at any logit") {
  for (const float logit : {-1e4f, -60.0f, -3.0f, -0.6f, -0.4f, -1e-3f, 0.0f, 1e-6f, 0.2f, 0.49f, 0.51f, 0.99f, 1.01f, 2.0f, 17.0f, 1e4f}) {
    const double l = logit, a = std::abs(l);
    // log of the integral of exp(logit x) over [0, 1], and its slope, which is the mean; both by series near 0
    const double log_integral = (l > 0 ? l : 0) + (a < 1e-2 ? std::log1p(-a / 2 + a * a / 6) : std::log(-std::expm1(-a) / a)),
                 mean = a < 1e-2 ? 0.5 + l / 12 : 1 / -std::expm1(-l) - 1 / l;
    for (const float target : {0.0f, 0.3f, 1.0f}) {
      const auto found = evaluate<1>({logit}, [&](auto& step, auto x) {
        return ContinuousBernoulli{}.nll(step, x, step.template constant<Shape{1}>(x.space(), 1, &target));
      });
      INFO("logit ", logit, ", target ", target);
      CHECK(std::abs(double(found.value[0]) - (log_integral - l * double(target))) <= 2e-7 * std::max(a, 1.0));
      CHECK(std::abs(double(found.gradient[0]) - (mean - double(target))) <= 5e-7);
    }
    const auto found = evaluate<1>({logit}, [](auto& step, auto x) { return ContinuousBernoulli{}.mean(step, x); });
    INFO("logit ", logit);
    CHECK(std::abs(double(found.value[0]) - mean) <= 3e-7);
  }
}

TEST_CASE("Laplace likelihoods") {
  const Floats mean{0.5f, -1, 2, 0.25f, 0, 1}, target{0.75f, -1.5f, 1, 0.25f, 0.5f, 1.25f};  // 2 rows of 3
  const auto nll = [&](const Laplace& likelihood) {
    return evaluate<3>(mean, [&](auto& step, auto x) {
      return likelihood.nll(step, x, step.template constant<Shape{3}>(x.space(), 3, target.data()));
    });
  };
  const auto found = nll({.scale = 0.5f});
  CHECK(found.value[0] == doctest::Approx(2 * 1.75 + 3 * std::log(2 * 0.5)).epsilon(1e-6));
  CHECK(found.value[1] == doctest::Approx(2 * 0.75 + 3 * std::log(2 * 0.5)).epsilon(1e-6));
  CHECK(found.gradient[0] == doctest::Approx(-1));
  CHECK(found.gradient[3] == 0);  // the mean is the target
  CHECK_THROWS_WITH_AS(nll({.scale = 0}), "vaelib: a Laplace likelihood wants a scale > 0, found 0", Error);
}

TEST_CASE("Gaussian likelihoods") {
  const Floats mean{0.5f, -1, 2, 0.25f, 0, 1}, target{0.75f, -1.5f, 1, 0.25f, 0.5f, 1.25f};  // 2 rows of 3
  const auto row_error = [&](int row) {
    double sum = 0;
    for (int i = 3 * row; i < 3 * row + 3; ++i)
      sum += (double(mean[i]) - double(target[i])) * (double(mean[i]) - double(target[i]));
    return sum;
  };
  const auto nll = [&](const auto& likelihood, const Floats& means) {
    return evaluate<3>(means, [&](auto& step, auto x) {
      return likelihood.nll(step, x, step.template constant<Shape{3}>(x.space(), 3, target.data()));
    });
  };
  const auto formula = [&](int row, double sigma) {
    return 0.5 * row_error(row) / (sigma * sigma) + 3 * (std::log(sigma) + 0.5 * std::log(2 * pi));
  };
  for (const double sigma : {0.1, 0.70710678, 3.0}) {
    FixedGaussian likelihood;
    likelihood.sigma = float(sigma);
    const auto found = nll(likelihood, mean);
    for (int row = 0; row < 2; ++row) CHECK(found.value[row] == doctest::Approx(formula(row, sigma)).epsilon(1e-6));
  }
  FixedGaussian wrong;
  wrong.sigma = 0;
  CHECK_THROWS_WITH_AS(nll(wrong, mean), "vaelib: a Gaussian likelihood wants sigma > 0, found 0", Error);

  // the optimal one is the fixed one at the sigma that is best for the batch, and no other sigma is better
  const double best = std::sqrt((row_error(0) + row_error(1)) / 6);
  const double optimal = double(nll(OptimalGaussian{}, mean).value[0]);
  CHECK(optimal == doctest::Approx((formula(0, best) + formula(1, best)) / 2).epsilon(1e-6));
  for (const double sigma : {0.9 * best, 1.1 * best}) CHECK((formula(0, sigma) + formula(1, sigma)) / 2 > optimal);
  const auto perfect = nll(OptimalGaussian{}, target);  // a perfect fit stays finite
  CHECK(perfect.value[0] == doctest::Approx(3 * (0.5 * std::log(1e-6) + 0.5 + 0.5 * std::log(2 * pi))));
  for (const float g : perfect.gradient) CHECK(g == 0);
}

TEST_CASE("KL of Gaussians: its closed form, and the mean of log q(z) - log p(z) over samples") {
  const Gaussian<1> latent{};
  for (const double mu : {-3.0, 0.0, 0.01, 5.0})
    for (const double raw : {-8.0, -0.5, 0.0, 1e-3, 3.0}) {
      const auto found = evaluate<2>({float(mu), float(raw)},
                                     [&](auto& step, auto x) { return latent.kl(step, latent.posterior(step, x)); });
      const double wanted = kl_of(double(float(mu)), clamped(double(float(raw))));
      CHECK(std::abs(double(found.value[0]) - wanted) <= 1e-6 * std::max(1e-3, wanted));
    }

  constexpr long rows = 40000;
  const float mu = 0.7f, raw = -1.25f;
  Floats heads;
  for (long r = 0; r < rows; ++r) heads.insert(heads.end(), {mu, raw});
  const auto z = evaluate<2>(heads, [&](auto& step, auto x) { return latent.sample(step, latent.posterior(step, x)); });
  const double logvar = clamped(double(raw));
  double sum = 0, squares = 0, mean = 0;
  for (const float v : z.value) {
    const double d = double(v) - double(mu),
                 difference = 0.5 * (double(v) * double(v) - d * d / std::exp(logvar) - logvar);
    sum += difference / rows;
    squares += difference * difference / rows;
    mean += double(v) / rows;
  }
  const double error = std::sqrt((squares - sum * sum) / rows);
  CHECK(error < 0.01);
  CHECK(std::abs(sum - kl_of(double(mu), logvar)) < 4 * error);
  CHECK(std::abs(mean - double(mu)) < 4 * std::exp(logvar / 2) / std::sqrt(rows));
}

TEST_CASE("the soft clamp keeps everything finite") {
  const Gaussian<1> latent{};
  for (const float raw : {-1e4f, 1e4f, -3e38f, 3e38f}) {
    const auto kl =
        evaluate<2>({0.5f, raw}, [&](auto& step, auto x) { return latent.kl(step, latent.posterior(step, x)); });
    const auto z =
        evaluate<2>({0.5f, raw}, [&](auto& step, auto x) { return latent.sample(step, latent.posterior(step, x)); });
    CHECK(double(kl.value[0]) == doctest::Approx(kl_of(0.5, raw > 0 ? 20 : -20)));
    CHECK(std::isfinite(z.value[0]));
    for (const auto* gradient : {&kl.gradient, &z.gradient})
      for (const float g : *gradient) CHECK(std::isfinite(g));
    CHECK(kl.gradient[1] == 0);
  }
  const auto logvar =
      evaluate<2>({0, 1e-3f}, [&](auto& step, auto x) { return latent.logvar(step, latent.posterior(step, x)); });
  CHECK(double(logvar.value[0]) == doctest::Approx(1e-3));  // the identity near zero
  CHECK(double(logvar.gradient[1]) == doctest::Approx(1));
}

TEST_CASE("free bits and capacity") {
  // two rows of two dimensions: the means over the batch are 0.02 and 0.5
  const Floats kl{0.01f, 0.2f, 0.03f, 0.8f};
  const auto objective = [&](const ElboOptions& options, float beta, float capacity) {
    std::array<double, 3> parts{};
    auto found = evaluate<2>(kl, [&](auto& step, auto x) {
      step.beta = step.scalar(beta);
      step.capacity = step.scalar(capacity);
      const Floats nll{3, 5};
      const auto loss = negative_elbo(step, options, step.template constant<Shape{1}>(x.space(), 1, nll.data()), x);
      parts = {double(*loss.objective.value()), double(*loss.reconstruction.value()), double(*loss.kl.value())};
      return loss.objective;
    });
    return std::pair{parts, found.gradient};
  };
  const auto check = [&](const ElboOptions& options, float beta, float capacity, double wanted, double low,
                         double high) {
    const auto& [parts, gradient] = objective(options, beta, capacity);
    CHECK(parts[0] == doctest::Approx(wanted));
    CHECK(parts[1] == doctest::Approx(4));
    CHECK(parts[2] == doctest::Approx(0.52));  // told as it is, whatever is charged
    for (int i = 0; i < 4; ++i) CHECK(gradient[i] == doctest::Approx(i % 2 == 0 ? low : high));
  };
  check({}, 1, 0, 4 + 0.52, 0.5, 0.5);
  check({}, 3, 0, 4 + 3 * 0.52, 1.5, 1.5);
  check({}, 0, 0, 4, 0, 0);
  check({.free_bits = 0.1f}, 2, 0, 4 + 2 * (0.1 + 0.5), 0,
        1);  // the first dimension is below, though one of its samples is not
  check({.free_bits = 1}, 2, 0, 4 + 2 * 2, 0, 0);
  check({.use_capacity = true}, 2, 0.2f, 4 + 2 * 0.32, 1, 1);
  check({.use_capacity = true}, 2, 0.7f, 4 + 2 * 0.18, -1, -1);
}

namespace {

/// Rows whose covariance is known exactly: Walsh functions, scaled, then reflected so that no axis stands out.
struct Ellipsoid {
  static constexpr int features = 6;
  static constexpr std::array<double, features> deviations{2, 1.2, 0.5, 0.4, 0.3, 0.35};
  std::int64_t size() const { return 4096; }
  Shape shape() const { return features; }
  int classes() const { return 0; }
  void fill(std::uint64_t, std::span<const std::uint32_t> rows, float* out, std::int32_t*) const {
    for (const std::uint32_t row : rows) {
      std::array<double, features> x;
      double along = 0;  // the direction in which it is reflected: (1, ..., 1)
      for (int j = 0; j < features; ++j)
        along += x[j] = deviations[j] * (std::popcount(row & unsigned(j + 1)) % 2 ? -1 : 1);
      for (int j = 0; j < features; ++j) *out++ = float(x[j] - 2 * along / features);
    }
  }
};

}  // namespace

TEST_CASE("a linear VAE reaches the likelihood of probabilistic PCA") {
  // Tipping & Bishop 1999: with as many components as latents, the noise is the mean of the other eigenvalues. Lucas et
  // al. 2019: the ELBO of a linear VAE is tight there.
  constexpr int D = Ellipsoid::features, latents = 2;
  double noise = 0, logs = 0, information = 0;
  for (int j = latents; j < D; ++j) noise += std::pow(Ellipsoid::deviations[j], 2) / (D - latents);
  for (int j = 0; j < latents; ++j) {
    logs += std::log(std::pow(Ellipsoid::deviations[j], 2));
    information += 0.5 * std::log(std::pow(Ellipsoid::deviations[j], 2) / noise);
  }
  const double best = 0.5 * (D * std::log(2 * pi) + logs + (D - latents) * std::log(noise) + D);

  using Pca = Vae<Sequential<Shape{D}>, Gaussian<latents>, Sequential<Shape{latents}, Linear<D>>, LearnedGaussian>;
  Trainer trainer(Pca{}, Adam{.learning_rate = 1e-2f}, Cpu(1), 4);
  trainer.fit(Ellipsoid{}, {.epochs = 150, .batch_size = 128, .learning_rate = Cosine{.steps = 150 * 32}});
  std::vector<std::uint32_t> rows(4096);
  for (std::uint32_t r = 0; r < rows.size(); ++r) rows[r] = r;
  Floats x(rows.size() * D);
  Ellipsoid{}.fill(0, rows, x.data(), nullptr);
  StepResult mean;
  for (std::uint64_t number = 0; number < 20; ++number) {  // each draws other samples of q(z|x)
    const auto result = trainer.learner.evaluate({4096, D, x.data()}, 1, 0, number);
    mean.reconstruction += result.reconstruction / 20;
    mean.kl += result.kl / 20;
  }
  const double elbo = mean.reconstruction + mean.kl;
  INFO("negative ELBO ", elbo, ", of probabilistic PCA ", best, "; KL ", mean.kl, ", mutual information ", information);
  CHECK(elbo > best - 0.02);  // the standard error of the samples is 0.006
  CHECK(elbo < best + 0.02);
  CHECK(std::abs(mean.kl - information) < 0.02);
  const auto& w = trainer.weights();
  CHECK(w.parameters.back().name == "likelihood.log_sigma");
  CHECK(std::abs(double(w.values[w.parameters.back().leaf.offset]) - 0.5 * std::log(noise)) < 0.02);
}

TEST_CASE("a linear VAE with more latents than the data need: the ELBO of probabilistic PCA, and the others collapse exactly") {
  // With the noise given, a principal component is worth a latent only where its variance is above the noise; Lucas et al.
  // 2019, section 4.
  constexpr int D = Ellipsoid::features, latents = 5;
  constexpr double noise = 0.36;
  double best = 0.5 * D * std::log(2 * pi);
  int useful = 0;
  for (const double deviation : Ellipsoid::deviations) {
    const double variance = deviation * deviation;
    useful += variance > noise;
    best += variance > noise ? 0.5 * (std::log(variance) + 1) : 0.5 * (std::log(noise) + variance / noise);
  }
  REQUIRE(useful == 2);
  using LinearVae = Vae<Sequential<Shape{D}>, Gaussian<latents>, Sequential<Shape{latents}, Linear<D>>, FixedGaussian>;
  LinearVae model;
  model.likelihood.sigma = float(std::sqrt(noise));
  Trainer trainer(model, Adam{.learning_rate = 1e-2f}, Cpu(1), 4);
  trainer.fit(Ellipsoid{}, {.epochs = 150, .batch_size = 128, .learning_rate = Cosine{.steps = 150 * 32}});
  std::vector<std::uint32_t> rows(4096);
  std::iota(rows.begin(), rows.end(), 0u);
  Floats x(rows.size() * D);
  Ellipsoid{}.fill(0, rows, x.data(), nullptr);
  double elbo = 0;
  for (std::uint64_t number = 0; number < 100; ++number) {
    const auto result = trainer.learner.evaluate({4096, D, x.data()}, 1, 0, number);
    elbo += (result.reconstruction + result.kl) / 100;
  }
  INFO("negative ELBO ", elbo, ", of probabilistic PCA ", best);
  CHECK(std::abs(elbo - best) < 0.01);  // the standard error of the samples is 0.003
  Session session(trainer.weights(), Cpu(1));
  const auto means = session.encode(x);
  const auto logvars = session.run(4096, D, x.data(), nullptr, 0, [](auto& step, const auto& m, const auto& batch) {
    return m.latent.logvar(step, m.encode(step, input<Shape{D}>(step, batch), batch));
  });
  const auto use = metrics::posterior_use(means, logvars, latents);
  CHECK(use.active_by_kl == useful);
  CHECK(use.avg_active_units == useful);
  CHECK(use.collapse_ratio == doctest::Approx(3.0 / 5));
}
