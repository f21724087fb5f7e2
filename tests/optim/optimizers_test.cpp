// Optimizers against their formulas in double, one weight at a time, and against PyTorch's.
#include <doctest/doctest.h>

#include <vaelib/backend/cpu/cpu.hpp>
#include <vaelib/io/safetensors.hpp>
#include <vaelib/optim/optimizers.hpp>

using namespace vaelib;

namespace {

constexpr int steps = 20;
using Floats = std::vector<float>;

/// Twenty steps over flat buffers; gradients: steps x weights. What each step's gradient is scaled by.
template <class Optimizer>
Floats train(const Optimizer& optimizer, Floats w, const Floats& gradients, auto scale_of, int threads = 1) {
  Cpu cpu(threads);
  std::vector<Floats> moments(Optimizer::moments, Floats(w.size()));
  for (int step = 0; step < steps; ++step) {
    std::array<float*, Optimizer::moments> m;
    for (int k = 0; k < Optimizer::moments; ++k) m[k] = moments[k].data();
    const float* g = gradients.data() + step * w.size();
    cpu.update(optimizer, optimizer.rates(step + 1), scale_of(cpu, g), long(w.size()), w.data(), g, m);
  }
  return w;
}
constexpr auto plain = [](Cpu&, const float*) { return 1.0f; };

Floats normals(long count, std::uint64_t seed) {
  Floats numbers(count);
  normal(RandomKey{.seed = seed}, 0, 1, int(count), numbers.data());
  return numbers;
}

double difference(const Floats& found, const auto& wanted) {
  REQUIRE(found.size() == wanted.size());
  double result = 0;
  for (std::size_t i = 0; i < found.size(); ++i) {
    const double d = std::abs(double(found[i]) - double(wanted[i])) / std::max(1.0, std::abs(double(wanted[i])));
    result = d == d ? std::max(result, d) : INFINITY;
  }
  return result;
}

// ---- the formulas, from the papers

double sgd(double w, const std::vector<double>& gradients, const Sgd& o) {
  double velocity = 0;
  for (const double g : gradients) {
    velocity = double(o.momentum) * velocity + g + double(o.weight_decay) * w;
    w -= double(o.learning_rate) * velocity;
  }
  return w;
}
template <class A>
double adam(double w, const std::vector<double>& gradients, const A& o, bool decoupled) {
  double m = 0, v = 0, t = 0;
  const double rate = o.learning_rate, decay = o.weight_decay, beta1 = o.beta1, beta2 = o.beta2;
  for (double g : gradients) {
    ++t;
    if (decoupled) w *= 1 - rate * decay;
    if (!decoupled) g += decay * w;
    m = beta1 * m + (1 - beta1) * g;
    v = beta2 * v + (1 - beta2) * g * g;
    w -= rate * (m / (1 - std::pow(beta1, t))) / (std::sqrt(v / (1 - std::pow(beta2, t))) + double(o.epsilon));
  }
  return w;
}

template <class Optimizer>
void check(const Optimizer& optimizer, auto formula) {
  for (const long count : {1, 7, 16, 8191, 20001}) {
    const Floats first = normals(count, 1), gradients = normals(count * steps, 2);
    std::vector<double> wanted(count);
    for (long i = 0; i < count; ++i) {
      std::vector<double> of_weight(steps);
      for (int step = 0; step < steps; ++step) of_weight[step] = gradients[step * count + i];
      wanted[i] = formula(double(first[i]), of_weight);
    }
    const Floats found = train(optimizer, first, gradients, plain);
    CHECK(difference(found, wanted) < 4e-6);  // twenty steps, each with a few roundings of 6e-8
    CHECK(found == train(optimizer, first, gradients, plain, 3));
  }
}

}  // namespace

TEST_CASE("optimizers follow their formulas") {
  const Sgd momentum{.learning_rate = 0.05f, .momentum = 0.9f, .weight_decay = 0.01f};
  check(Sgd{}, [](double w, const auto& g) { return sgd(w, g, Sgd{}); });
  check(momentum, [&](double w, const auto& g) { return sgd(w, g, momentum); });
  const Adam own{.learning_rate = 0.01f, .beta1 = 0.8f, .beta2 = 0.99f, .epsilon = 1e-6f, .weight_decay = 0.1f};
  check(Adam{}, [](double w, const auto& g) { return adam(w, g, Adam{}, false); });
  check(own, [&](double w, const auto& g) { return adam(w, g, own, false); });
  const AdamW decoupled{.learning_rate = 0.01f, .weight_decay = 0.1f};
  check(AdamW{}, [](double w, const auto& g) { return adam(w, g, AdamW{}, true); });
  check(decoupled, [&](double w, const auto& g) { return adam(w, g, decoupled, true); });
}

TEST_CASE("optimizers make the weights that PyTorch's make") {
  const SafetensorsFile file(text(VAELIB_TEST_FOLDER, "/golden/optimizers.safetensors"));
  const auto read = [&](const char* name) {
    REQUIRE(file.find(name));
    Floats values(file.find(name)->count());
    file.read(name, values);
    return values;
  };
  const Floats first = read("first"), gradients = read("gradients");
  const auto check = [&](const char* name, const auto& optimizer, auto scale) {
    INFO(name);
    CHECK(difference(train(optimizer, first, gradients, scale), read(name)) < 1e-6);
  };
  check("sgd", Sgd{.learning_rate = 0.05f}, plain);
  check("sgd_momentum", Sgd{.learning_rate = 0.05f, .momentum = 0.9f, .weight_decay = 0.01f}, plain);
  check("adam", Adam{.learning_rate = 0.01f}, plain);
  check("adam_decay",
        Adam{.learning_rate = 0.01f, .beta1 = 0.8f, .beta2 = 0.99f, .epsilon = 1e-6f, .weight_decay = 0.1f}, plain);
  check("adamw", AdamW{.learning_rate = 0.01f, .weight_decay = 0.1f}, plain);
  check("clipped", Sgd{.learning_rate = 0.05f}, [&](Cpu& cpu, const float* g) {
    const double norm = std::sqrt(cpu.squared_norm(long(first.size()), g));
    return norm > 5 ? float(5 / norm) : 1.0f;
  });
}

TEST_CASE("the norm of many numbers, of few and of those that are none") {
  Cpu cpu(2);
  for (const long count : {0, 1, 7, 8191, 8192, 8193, 50001}) {
    Floats x = normals(count, 3);
    double sum = 0;
    for (const float v : x) sum += double(v) * double(v);
    CHECK(std::abs(cpu.squared_norm(count, x.data()) - sum) <= 1e-6 * sum);
    CHECK(Cpu(1).squared_norm(count, x.data()) == cpu.squared_norm(count, x.data()));
    for (const float bad : {NAN, INFINITY, -INFINITY}) {
      if (count == 0) continue;
      x.back() = bad;
      CHECK(!std::isfinite(cpu.squared_norm(count, x.data())));
    }
  }
}
