// Runs that meet numbers that are not finite and go back, and runs whose learning rate follows a plateau: both with the same
// bits every time, and after an interruption.
#include <doctest/doctest.h>

#include <autodiff/toy_models.hpp>
#include <cstdlib>

#include "../io/faults.hpp"

using namespace vaelib;
using io_test::TemporaryFolder;

namespace {

using Floats = std::vector<float>;

/// Batch norm for the state, Adam for the moments; the squared error of large numbers is infinite.
struct Model {
  Sequential<toy::pixels, Flatten, Linear<7>, BatchNorm, ReLU, Linear<36>, Reshape<toy::pixels>> body{};
  void build() { body.build(); }
  void fields(auto&& f) { f("body", body); }
  auto loss(auto& step, const auto& batch) const {
    const auto x = input<toy::pixels>(step, batch);
    return mean_rows(step, map_reduce(step, SquaredDifference{}, body(step, x), fixed(x)));
  }
};

/// Patterns of which the rows of some batches of an epoch are far too large: 5 batches an epoch.
struct Poisoned : toy::Patterns {
  int* calls;            ///< batches so far
  std::vector<int> bad;  ///< of these
  int stop = -1;         ///< here the run is interrupted
  struct Interrupted {};
  void fill(std::uint64_t epoch, std::span<const std::uint32_t> wanted, float* out, std::int32_t* labels) const {
    if (*calls == stop) throw Interrupted{};
    Patterns::fill(epoch, wanted, out, labels);
    if (std::find(bad.begin(), bad.end(), *calls) != bad.end()) out[3] = 1e30f;
    ++*calls;
  }
};

struct Result {
  Floats bits;
  History history;
  std::string error;
};
Result train(FitOptions options, std::vector<int> bad, int stop = -1, int threads = 1, int first_call = 0) {
  int calls = first_call;
  Poisoned data;
  data.calls = &calls;
  data.bad = std::move(bad);
  data.stop = stop;
  options.batch_size = 24;
  Trainer trainer(Model{}, Adam{.learning_rate = 1e-2f}, Cpu(threads), 7);
  Result result;
  try {
    result.history = trainer.fit(data, options);
  } catch (const Error& error) {
    result.error = error.what();
  } catch (const Poisoned::Interrupted&) {
    result.error = "interrupted";
  }
  const auto& w = trainer.weights();
  result.bits.assign(w.values.begin(), w.values.end());
  result.bits.insert(result.bits.end(), w.state.begin(), w.state.end());
  return result;
}
FitOptions going_back(std::int64_t epochs, RollBack roll_back) {
  FitOptions options;
  options.epochs = epochs;
  options.non_finite = NonFinite::roll_back;
  options.roll_back = roll_back;
  return options;
}

const Floats large = [] {
  Floats x(24 * 36, 0.5f);
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = float(i * 7 % 37) / 36;
  return x;
}();

}  // namespace

TEST_CASE("a step goes back to the last snapshot: weights, state, moments and counts") {
  Floats bad = large;
  bad[5] = 1e30f;
  const Batch<float> good{24, toy::pixels, large.data()}, poison{24, toy::pixels, bad.data()};
  Learner<Model, Adam, Cpu> learner({}, {}, Cpu(1), 3);
  const auto everything = [&] {
    std::vector<Floats> all{{learner.weights.values.begin(), learner.weights.values.end()},
                            {learner.weights.state.begin(), learner.weights.state.end()}};
    for (const auto& m : learner.moments[0]) all.emplace_back(m.begin(), m.end());
    all.push_back({float(learner.updates[0])});
    return all;
  };
  const StepOptions options{.non_finite = NonFinite::roll_back, .roll_back = {.every = 3, .most = 2}};
  const auto first = everything();
  CHECK(!learner.learn(poison, options).accepted);  // nothing to go back to, and nothing has changed
  CHECK(everything() == first);
  learner.learn(good, options);  // step 2 takes a snapshot before it changes anything
  learner.learn(good, options);
  learner.learn(good, options);
  CHECK(everything() != first);
  const StepResult result = learner.learn(poison, options);
  CHECK(!result.accepted);
  CHECK(!std::isfinite(result.objective));
  CHECK(everything() == first);
  CHECK(learner.steps == 5);  // the position does not go back
  learner.learn(good, options);  // step 6: the next snapshot
  const auto second = everything();
  learner.learn(good, options);
  CHECK(!learner.learn(poison, options).accepted);
  CHECK(everything() == first);  // that of before step 6, which are the weights that were gone back to
  CHECK(!learner.learn(poison, options).accepted);
  learner.learn(good, options);  // step 10, with a snapshot
  CHECK(everything()[3] == second[3]);
  CHECK(!learner.learn(poison, options).accepted);
  CHECK(!learner.learn(poison, options).accepted);
  CHECK_THROWS_WITH_AS(learner.learn(poison, options), "vaelib: step 13: the reconstruction loss is inf, after 2 roll-backs to the same weights", Error);
}

TEST_CASE("a run with poisoned batches goes on, with the same bits every time") {
  const auto options = going_back(6, {.every = 4, .most = 3});
  const auto run = train(options, {7, 8, 17});
  REQUIRE(run.error == "");
  CHECK(run.history.back().train_loss < run.history.front().train_loss);
  std::int64_t skipped = 0;
  for (const auto& epoch : run.history) {
    CHECK(std::isfinite(epoch.train_loss));
    skipped += epoch.skipped;
  }
  CHECK(skipped == 3);
  for (const float v : run.bits) REQUIRE(std::isfinite(v));
  CHECK(train(options, {7, 8, 17}).bits == run.bits);
  CHECK(train(options, {7, 8, 17}, -1, 3).bits == run.bits);
  CHECK(train(options, {}).bits != run.bits);
  FitOptions skipping = options;
  skipping.non_finite = NonFinite::skip;
  CHECK(train(skipping, {7, 8, 17}).bits != run.bits);
  CHECK(train(skipping, {}).bits == train(options, {}).bits);  // as long as all is well, nothing is different
}

TEST_CASE("a run that cannot go on says so") {
  CHECK(train(going_back(6, {.every = 4, .most = 2}), {0, 1, 2}).error ==
        "vaelib: step 3: the reconstruction loss is inf, after 2 roll-backs to the same weights");
  CHECK(train(going_back(6, {.every = 100, .most = 0}), {7}).error == "vaelib: step 8: the reconstruction loss is inf, after 0 roll-backs to the same weights");
}

TEST_CASE("a resumed run goes back to the weights that the undisturbed one goes back to") {
  for (const int stop : {12, 13, 16}) {
    const TemporaryFolder a, b;
    auto options = going_back(6, {.every = 4, .most = 3});
    options.checkpoints = Checkpoints{.folder = a.path, .every = 3, .resume = true};
    const auto undisturbed = train(options, {13, 17});
    options.checkpoints->folder = b.path;
    CHECK(train(options, {13, 17}, stop).error == "interrupted");
    const auto resumed = train(options, {13, 17}, -1, 1, stop / 3 * 3 >= stop / 5 * 5 ? stop / 3 * 3 : stop / 5 * 5);
    INFO("interrupted at batch ", stop);
    CHECK(resumed.error == "");
    CHECK(resumed.bits == undisturbed.bits);
  }
}

TEST_CASE("the learning rate falls on a plateau, the same after an interruption") {
  FitOptions options;
  options.epochs = 12;
  options.validation = toy::Patterns{};
  options.plateau = Plateau{.factor = 0.5f, .patience = 1, .threshold = 0.5f};  // hardly anything is progress
  const TemporaryFolder folder;
  const auto run = train(options, {});
  REQUIRE(run.error == "");
  Plateau plateau = *options.plateau;
  for (const auto& epoch : run.history) {
    CHECK(float(epoch.learning_rate) == 1e-2f * plateau.rate);
    plateau.see(epoch.val_loss);
  }
  CHECK(plateau.rate < 0.3f);
  FitOptions steady = options;
  steady.plateau.reset();
  CHECK(train(steady, {}).bits != run.bits);

  options.checkpoints = Checkpoints{.folder = folder.path, .every = 3, .resume = true};
  CHECK(train(options, {}, 48).error == "interrupted");
  CHECK(train(options, {}).bits == run.bits);

  options.checkpoints.reset();
  options.validation = {};
  CHECK(train(options, {}).error == "vaelib: FitOptions::plateau watches the validation loss; give FitOptions::validation");
}
