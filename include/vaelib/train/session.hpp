// Inference: shared, constant weights and an own arena. One Session a thread; no locks.
#pragma once

#include <vaelib/autodiff/operations.hpp>
#include <vaelib/models/batch.hpp>
#include <vaelib/train/weights.hpp>

#include <span>

namespace vaelib::inline VAELIB_ABI {

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
    step.begin(weights->buffers(), Mode::evaluation, seed, 0, Stream::sampling);
    const Batch<Real> batch{rows, shape, features, labels, 0, step.rows(rows)};
    const auto result = f(step, weights->model, batch);
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
    return run(rows_of(z, size), Shape{size}, z.data(), labels, 0, [](auto& s, const auto& m, const auto& batch) {
      return m.likelihood.mean(s, m.decode(s, input<std::remove_cvref_t<decltype(m.latent)>::sample_shape>(s, batch), batch));
    });
  }

 private:
  static constexpr Shape Takes = Model::takes;

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
