// Inference: shared, constant weights and an own arena. One Session a thread; no locks.
#pragma once

#include <vaelib/autodiff/operations.hpp>
#include <vaelib/models/batch.hpp>
#include <vaelib/train/weights.hpp>

#include <algorithm>
#include <cmath>
#include <span>
#include <vector>

namespace vaelib::inline VAELIB_ABI {

/// Of each row, in nats: the evidence lower bound, and log p(x) estimated by importance weighting.
struct Evidence {
  std::vector<double> elbo, log_likelihood;
};

template <class Model, class B>
class Session {
 public:
  using Real = typename B::Real;

  /// The weights must outlive the session. Threads of its own pool: one unless said otherwise.
  explicit Session(const Weights<Model, B>& w, B b = B(1)) : weights(&w), backend(std::move(b)), step(backend) {}

  /// Runs f(step, model, batch) in evaluation mode and copies the variable that it returns. Rows are `shape` each, taken
  /// from the caller's memory; the seed keys what is drawn at random.
  template <class F>
  std::vector<Real> run(long rows, Shape shape, const Real* features, const std::int32_t* labels, std::uint64_t seed, F f) {
    const auto result = evaluate(rows, shape, features, labels, seed, f);
    return {result.value(), result.value() + result.size()};
  }

  /// The mean of q(z|x): rows x latent.
  std::vector<Real> encode(std::span<const Real> x, const std::int32_t* labels = nullptr) {
    return run_on(x, labels, [](auto& s, const auto& m, const auto& batch) {
      return m.encode(s, input<Takes>(s, batch), batch).mu;
    });
  }
  /// The mean of p(x|z) at the mean of q(z|x): rows x features of the model's shape.
  std::vector<Real> reconstruct(std::span<const Real> x, const std::int32_t* labels = nullptr) {
    return run_on(x, labels, [](auto& s, const auto& m, const auto& batch) {
      return m.likelihood.mean(s, m.decode(s, m.encode(s, input<Takes>(s, batch), batch).mu, batch));
    });
  }
  /// The mean of p(x|z) for samples z of the prior.
  std::vector<Real> sample(long rows, std::uint64_t seed, const std::int32_t* labels = nullptr) {
    return run(rows, weights->model.input_shape(), nullptr, labels, seed, [](auto& s, const auto& m, const auto& batch) {
      return m.likelihood.mean(s, m.decode(s, m.latent.prior(s, batch.space), batch));
    });
  }
  /// The mean of p(x|z) for given z: rows x latent.
  std::vector<Real> decode(std::span<const Real> z, const std::int32_t* labels = nullptr) {
    const int size = weights->model.latent.size;
    return run(rows_of(z, size), Shape{size}, z.data(), labels, 0, mean_of_codes);
  }
  /// The same into the caller's memory, for loops in real time: from the third call with as many rows on nothing is allocated,
  /// and with one thread there is no lock and no system call.
  void decode(std::span<const Real> z, std::span<Real> to, const std::int32_t* labels = nullptr) {
    const int size = weights->model.latent.size;
    const long rows = rows_of(z, size), wanted = rows * weights->model.input_shape().size();
    if (long(to.size()) != wanted) fail("vaelib: decode wants room for ", wanted, " numbers, found ", to.size());
    const auto result = evaluate(rows, Shape{size}, z.data(), labels, 0, mean_of_codes);
    std::copy_n(result.value(), result.size(), to.data());
  }

  /// log p(x) as log of the mean of p(x|z) p(z) / q(z|x) over `samples` draws of z ~ q(z|x); Burda et al. 2016, equation 8. It
  /// lies below log p(x) in expectation, and nears it with more samples; with one it is an ELBO whose KL is drawn too.
  Evidence evidence(std::span<const Real> x, int samples, std::uint64_t seed = 0, const std::int32_t* labels = nullptr) {
    const Shape shape = weights->model.input_shape();
    const long rows = rows_of(x, shape.size());
    if (samples < 1) fail("vaelib: evidence wants at least 1 sample, found ", samples);
    Evidence result{std::vector<double>(rows), std::vector<double>(rows, -INFINITY)};
    run(rows, shape, x.data(), labels, seed, [&](auto& s, const auto& m, const auto& batch) {
      const auto target = input<Takes>(s, batch);
      const auto q = m.encode(s, target, batch);
      const auto kl = sum_features(s, m.latent.kl(s, q));
      for (int k = 0; k < samples; ++k) {
        const auto before = s.position();
        const auto sample = m.latent.weighted_sample(s, q);
        const auto nll = m.likelihood.nll(s, m.decode(s, sample.z, batch), target);
        if (nll.rows() != rows) fail("vaelib: this likelihood has one number for a whole batch, not one for each row");
        for (long r = 0; r < rows; ++r) {
          const double log_weight = double(sample.log_weight.value()[r]) - double(nll.value()[r]);
          double& sum = result.log_likelihood[r];
          sum = std::max(sum, log_weight) + std::log1p(std::exp(-std::abs(sum - log_weight)));
          result.elbo[r] -= double(nll.value()[r]) / samples;
        }
        s.forget(before);
      }
      for (long r = 0; r < rows; ++r) {
        result.elbo[r] -= double(kl.value()[r]);
        result.log_likelihood[r] -= std::log(double(samples));
      }
      return kl;
    });
    return result;
  }

 private:
  static constexpr Shape Takes = Model::takes;
  static constexpr auto mean_of_codes = [](auto& s, const auto& m, const auto& batch) {
    return m.likelihood.mean(s, m.decode(s, input<std::remove_cvref_t<decltype(m.latent)>::sample_shape>(s, batch), batch));
  };

  template <class F>
  auto evaluate(long rows, Shape shape, const Real* features, const std::int32_t* labels, std::uint64_t seed, F f) {
    step.begin(weights->buffers(), Mode::evaluation, seed, 0, Stream::sampling);
    const Batch<Real> batch{rows, shape, features, labels, 0, step.rows(rows)};
    return f(step, weights->model, batch);
  }

  static long rows_of(std::span<const Real> x, int features) {
    if (features == 0 || x.size() % features != 0) fail("vaelib: ", x.size(), " numbers are no whole rows of ", features, " features");
    return long(x.size() / features);
  }
  template <class F>
  std::vector<Real> run_on(std::span<const Real> x, const std::int32_t* labels, F f) {
    const Shape shape = weights->model.input_shape();
    return run(rows_of(x, shape.size()), shape, x.data(), labels, 0, f);
  }

  const Weights<Model, B>* weights;
  B backend;
  Step<B> step;
};

}  // namespace vaelib::inline VAELIB_ABI
