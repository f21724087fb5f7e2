// One training step: clipping, groups of parameters, rates, and numbers that are not finite.
#include <doctest/doctest.h>

#include <vaelib/backend/cpu/cpu.hpp>
#include <vaelib/layers/batch_norm.hpp>
#include <vaelib/layers/linear.hpp>
#include <vaelib/models/batch.hpp>
#include <vaelib/train/learner.hpp>

using namespace vaelib;

namespace {

using Floats = std::vector<float>;

/// The mean square of the outputs; and a parameter that no loss reaches.
struct Model {
  Sequential<Shape{3}, Linear<4>, BatchNorm, Linear<2>> body{};
  Parameter unused{};
  bool rooted = false;  ///< finite values whose gradients are not

  void build() {
    body.build();
    unused = {{5}, constant(2)};
  }
  void fields(auto&& f) {
    f("body", body);
    f("unused", unused);
  }
  auto loss(auto& step, const auto& batch) const {
    const auto y = body(step, input<Shape{3}>(step, batch));
    return mean_rows(step, map_reduce(step, Term{rooted}, y));
  }
  struct Term {
    bool root;
    constexpr auto operator()(auto x) const { return root ? sqrt(x - x) : square(x); }
  };
};

const Floats features = [] {
  Floats x(8 * 3);
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = float(i * 7 % 11) / 5 - 1;
  return x;
}();
const Batch<float> batch{8, Shape{3}, features.data()};

template <class Optimizer>
struct Taught : Learner<Model, Optimizer, Cpu> {
  using Base = Learner<Model, Optimizer, Cpu>;
  explicit Taught(Optimizer own, Model model = {}) : Base(model, own, Cpu(1), 5) {}

  Floats of(const std::string& name) const {
    for (const auto& [full, p] : this->weights.parameters)
      if (full == name)
        return {this->weights.values.data() + p.offset, this->weights.values.data() + p.offset + p.size()};
    for (const auto& [full, s] : this->weights.states)
      if (full == name)
        return {this->weights.state.data() + s.offset, this->weights.state.data() + s.offset + s.size()};
    FAIL("there is no " << name);
    return {};
  }
  /// Everything that a step may change.
  std::vector<Floats> everything() const {
    std::vector<Floats> all{{this->weights.values.begin(), this->weights.values.end()},
                            {this->weights.state.begin(), this->weights.state.end()}};
    for (const auto& m : this->moments[0]) all.emplace_back(m.begin(), m.end());
    return all;
  }
  std::string error_of_step(const Batch<float>& samples, StepOptions options = {}) {
    try {
      this->learn(samples, options);
    } catch (const Error& error) {
      return error.what();
    }
    return "no error";
  }
};

/// How far one step goes, as multiples of how far it goes without options.
Floats moved(const StepOptions& options, const std::vector<ParameterGroup>& groups, const std::string& name) {
  Taught<Sgd> plain({.learning_rate = 0.5f}), changed({.learning_rate = 0.5f});
  changed.groups = groups;
  const Floats before = plain.of(name);
  plain.learn(batch);
  changed.learn(batch, options);
  const Floats a = plain.of(name), b = changed.of(name);
  Floats ratios;
  for (std::size_t i = 0; i < a.size(); ++i) {
    REQUIRE(a[i] != before[i]);
    ratios.push_back((b[i] - before[i]) / (a[i] - before[i]));
  }
  return ratios;
}
void check_all(const Floats& ratios, double wanted) {
  for (const float ratio : ratios) CHECK(std::abs(double(ratio) - wanted) < 1e-4);
}

}  // namespace

TEST_CASE("gradients of a larger norm are scaled down to the limit") {
  Taught<Sgd> learner({});
  const double norm = learner.learn(batch).gradient_norm;
  CHECK(norm > 0.1);
  double squares = 0;
  for (const auto& [name, p] : learner.weights.parameters)
    for (long i = 0; name != "unused" && i < p.size(); ++i)
      squares += std::pow(double(learner.gradients[p.offset + i]), 2);
  CHECK(std::abs(norm / std::sqrt(squares) - 1) < 1e-6);
  check_all(moved({.clip_norm = float(norm / 4)}, {}, "body.2.weight"), 0.25);
  check_all(moved({.clip_norm = float(norm * 1.01)}, {}, "body.2.weight"), 1);
  check_all(moved({.clip_norm = 0}, {}, "body.2.weight"), 1);
}

TEST_CASE("rates of schedules and groups multiply") {
  check_all(moved({.learning_rate = 0.5f}, {}, "body.2.weight"), 0.5);
  const std::vector<ParameterGroup> groups{{.prefix = "body.2.weight", .rate = 0.1f}, {.prefix = "body.2.", .rate = 2}};
  check_all(moved({.learning_rate = 0.5f}, groups, "body.2.weight"), 0.05);  // the first group that fits
  check_all(moved({.learning_rate = 0.5f}, groups, "body.2.bias"), 1);
  check_all(moved({}, groups, "body.1.weight"), 1);
}

TEST_CASE("weight decay by group; none where nothing is learned") {
  Taught<AdamW> learner({.learning_rate = 0.1f, .weight_decay = 0.5f});
  learner.groups = {{.prefix = "body.0.", .rate = 0}, {.prefix = "body.1.", .weight_decay = 0.0f}};
  Taught<AdamW> without({.learning_rate = 0.1f, .weight_decay = 0});
  const Floats frozen_weight = learner.of("body.0.weight"), frozen_bias = learner.of("body.0.bias");
  for (int i = 0; i < 3; ++i) learner.learn(batch);
  CHECK(learner.of("body.0.weight") == frozen_weight);  // frozen, weight decay and all
  CHECK(learner.of("body.0.bias") == frozen_bias);
  CHECK(learner.of("unused") == Floats(5, 2));  // no loss reaches it
  CHECK(learner.of("body.1.num_batches_tracked")[0] == 3);
  for (const auto& [name, p] : learner.weights.parameters)
    if (name.starts_with("body.0.") || name == "unused")
      for (const auto& m : learner.moments[0])
        for (long i = 0; i < p.size(); ++i) CHECK(m[p.offset + i] == 0);

  Taught<AdamW> other({.learning_rate = 0.1f, .weight_decay = 0.5f});
  other.groups = {{.prefix = "body.2.weight", .weight_decay = 0.0f}};
  other.learn(batch);
  without.learn(batch);
  CHECK(other.of("body.2.weight") == without.of("body.2.weight"));
  CHECK(other.of("body.2.bias") != without.of("body.2.bias"));
}

TEST_CASE("numbers that are not finite stop the run, with step and name") {
  Floats bad = features;
  bad[4] = NAN;
  Taught<Adam> learner({});
  learner.learn(batch);
  const auto before = learner.everything();
  CHECK(learner.error_of_step({8, Shape{3}, bad.data()}) == "vaelib: step 2: the reconstruction loss is nan");
  CHECK(learner.everything() == before);
  bad[4] = INFINITY;
  CHECK(learner.error_of_step({8, Shape{3}, bad.data()}).starts_with("vaelib: step 3: the reconstruction loss is "));
  CHECK(learner.everything() == before);
  Taught<Adam> undisturbed({});
  undisturbed.learn(batch);
  undisturbed.learn(batch);
  CHECK(learner.error_of_step(batch) == "no error");
  CHECK(learner.everything() == undisturbed.everything());  // nothing of it is left

  // sqrt has no slope at zero: the loss is finite, the gradients are not
  Taught<Adam> rooted({}, Model{.rooted = true});
  CHECK(rooted.error_of_step(batch) ==
        "vaelib: step 1: the gradient of body.0.weight is not finite in 12 of 12 numbers");
}

TEST_CASE("numbers that are not finite are skipped where that is wanted") {
  Floats bad = features;
  bad[4] = NAN;
  Taught<Adam> learner({}), undisturbed({});
  learner.learn(batch);
  undisturbed.learn(batch);
  const auto before = learner.everything();
  const StepResult result = learner.learn({8, Shape{3}, bad.data()}, {.non_finite = NonFinite::skip});
  CHECK(!result.accepted);
  CHECK(!std::isfinite(result.objective));
  CHECK(learner.everything() == before);  // weights, moments and running statistics
  CHECK(learner.steps == 2);
  CHECK(learner.updates[0] == 1);  // Adam's count
  learner.learn(batch);
  undisturbed.learn(batch);
  CHECK(learner.everything() == undisturbed.everything());
}
