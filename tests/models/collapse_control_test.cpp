// The terms that keep a posterior from collapsing: values by hand, gradients, and what they do to a model.
#include <doctest/doctest.h>

#include <vaelib/latents/committed_gaussian.hpp>
#include <vaelib/models/collapse_control.hpp>
#include <vaelib/train/gradient_check.hpp>
#include <vaelib/vae.hpp>

using namespace vaelib;

namespace {

struct Nothing {
  void fields(auto&&) {}
};

constexpr std::array<double, 4> nlls{3, 5, 4, 4};

/// The objective of four rows of three means and three raw log-variances.
template <class Latent = Gaussian<3>>
auto objective_of(const CollapseControl& control, float beta = 1, float capacity = 0) {
  return [=](auto& step, const auto&, auto x) {
    using Real = typename decltype(x)::Real;
    step.beta = step.scalar(beta);
    step.capacity = step.scalar(capacity);
    const Latent latent{};
    const auto q = latent.posterior(step, x);
    Real* nll = step.arena.template allocate<Real>(4);
    std::copy(nlls.begin(), nlls.end(), nll);
    return put_together(step, control, latent, q, latent.sample(step, q), step.template constant<Shape{1}>(x.space(), 1, nll)).objective;
  };
}
const std::vector<float> rows{1, 0, 0.1f, 0, 0, 0,  -1, 0, 0.1f, 0, 0, 0,  1, 0, -0.1f, -2, 0, 0,  -1, 0, -0.1f, -2, 0, 0};

double value_of(const CollapseControl& control, float beta = 1, float capacity = 0) {
  Cpu cpu(1);
  Step<Cpu> step(cpu);
  step.begin({}, Mode::evaluation, 1, 4, Stream::noise);
  return double(*objective_of(control, beta, capacity)(step, Nothing{}, step.constant<Shape{6}>(step.rows(4), 6, rows.data())).value());
}
double kl_of(double mu, double logvar) { return 0.5 * (mu * mu + std::expm1(logvar) - logvar); }
const double first = (kl_of(1, 0) + kl_of(1, 20 * std::tanh(-0.1))) / 2, third = kl_of(0.1, 0);

CollapseControl with(auto change) {
  CollapseControl control;
  change(control);
  return control;
}

}  // namespace

TEST_CASE("CollapseControl: free bits of dimensions, groups and all; capacity") {
  CHECK(value_of({}) == doctest::Approx(4 + first + third));
  CHECK(value_of(with([](auto& c) { c.free_bits = 0.1f; }), 2) == doctest::Approx(4 + 2 * (first + 0.1 + 0.1)));
  const auto groups = with([](auto& c) { c.free_bits = 0.3f, c.per = FreeBits::group, c.group = 2; });
  CHECK(value_of(groups) == doctest::Approx(4 + first + 0.3));  // dimensions 0 and 1, then 2 alone
  const auto total = [](float bits) { return with([=](auto& c) { c.free_bits = bits, c.per = FreeBits::total; }); };
  CHECK(value_of(total(0.3f)) == doctest::Approx(4 + first + third));
  CHECK(value_of(total(3)) == doctest::Approx(4 + 3));
  CHECK(value_of(with([](auto& c) { c.use_capacity = true; }), 3, 1) == doctest::Approx(4 + 3 * std::abs(first + third - 1)));
}

TEST_CASE("CollapseControl: moments of the aggregated posterior") {
  const double v0 = (1 + std::exp(20 * std::tanh(-0.1))) / 2 + 1, v2 = 1 + 0.01;
  CHECK(value_of(with([](auto& c) { c.variance = 2.0f; })) == doctest::Approx(4 + first + third + 2 * ((v0 - 1) * (v0 - 1) + (v2 - 1) * (v2 - 1))));
  CHECK(value_of(with([](auto& c) { c.mean = 5.0f; })) == doctest::Approx(4 + first + third));  // all means are 0
}

TEST_CASE("CollapseControl: gradients of every term") {
  const auto check = [](const char* name, const CollapseControl& control) {
    const auto report = gradient_check<Shape{6}>(Nothing{}, objective_of(control, 0.7f), {.rows = 4}, Shape{6});
    INFO(name, ": ", report.summary());
    CHECK(report.passed());
  };
  check("plain", {});
  check("free bits", with([](auto& c) { c.free_bits = 0.4f; }));
  check("groups", with([](auto& c) { c.free_bits = 0.6f, c.per = FreeBits::group, c.group = 2; }));
  check("total", with([](auto& c) { c.free_bits = 0.1f, c.per = FreeBits::total; }));
  check("moments", with([](auto& c) { c.variance = 0.5f, c.mean = 0.3f; }));
  check("decomposed", with([](auto& c) { c.decompose = true, c.dataset_size = 100, c.mutual_information = 0.5f, c.total_correlation = 6.0f; }));
  const auto committed = gradient_check<Shape{6}>(Nothing{}, objective_of<CommittedGaussian<3>>({}), {.rows = 4}, Shape{6});
  INFO(committed.summary());
  CHECK(committed.passed());
}

TEST_CASE("CommittedGaussian: no sample has less than the rate") {
  for (const float rate : {0.05f, 0.5f, 2.0f}) {
    CommittedGaussian<1> latent;
    latent.rate = rate;
    double smallest = 1e9;
    for (const float raw : {-30.0f, -5.0f, -1.0f, 0.0f, 1.0f, 7.0f, 100.0f}) {
      Cpu cpu(1);
      Step<Cpu> step(cpu);
      step.begin({}, Mode::evaluation, 1, 1, Stream::noise);
      const float head[] = {0, raw};
      smallest = std::min(smallest, double(*latent.kl(step, latent.posterior(step, step.constant<Shape{2}>(step.rows(1), 2, head))).value()));
    }
    CHECK(smallest >= double(rate) * (1 - 1e-5));
    CHECK(smallest < double(rate) * 1.01);
  }
  CommittedGaussian<1> wrong;
  wrong.rate = -1;
  CHECK_THROWS_AS(wrong.ceiling(), Error);
}

TEST_CASE("CollapseControl: what is missing or does not go together is said") {
  CHECK_THROWS_WITH_AS(with([](auto& c) { c.decompose = true; }).build(), doctest::Contains("wants dataset_size"), Error);
  CHECK_THROWS_WITH_AS(with([](auto& c) { c.group = 0; }).build(), doctest::Contains("groups of 0 dimensions"), Error);
  CHECK_THROWS_WITH_AS(with([](auto& c) { c.target = 1, c.per = FreeBits::total; }).build(), doctest::Contains("those of dimensions"), Error);
}

TEST_CASE("CollapseControl: free bits, and free bits that adapt to a target, keep a model from collapsing") {
  constexpr Shape image{8, 8, 1};
  using Model = Vae<Sequential<image, Flatten, Linear<16>, ReLU>, Gaussian<4>, Sequential<Shape{4}, Linear<64>, Reshape<image>>, Bernoulli, CollapseControl>;
  const data::Shapes shapes{.image_size = 8, .images = 256};
  const auto kl_after = [&](const CollapseControl& control) {
    Model model;
    model.elbo = control;
    Trainer trainer{model, Adam{.learning_rate = 3e-3f}, Cpu(1)};
    return trainer.fit(shapes, {.epochs = 60, .batch_size = 64, .beta = 20}).back().train_kl;
  };
  CHECK(kl_after({}) < 0.05);
  const double free = kl_after(with([](auto& c) { c.free_bits = 0.2f; }));
  CHECK(free > 0.6);
  CHECK(free < 1.2);
  const double adapted = kl_after(with([](auto& c) { c.target = 0.4f; }));
  CHECK(adapted > 1.2);
  CHECK(adapted < 2);
}
