// A run that is interrupted, saved by rules, averaged, computed in parts or read ahead: the same bits as one that is not.
#include <doctest/doctest.h>

#include <csignal>
#include <vaelib/train/signals.hpp>
#include <vaelib/vae.hpp>

#include "../io/faults.hpp"

using namespace vaelib;
using io_test::TemporaryFolder;

namespace {

using Model = Vae<Sequential<Shape{8}, Linear<4>, BatchNorm, ReLU>, Gaussian<2>, Sequential<Shape{2}, Linear<8>>, Bernoulli>;
using Floats = std::vector<float>;

const Floats points = [] {
  Floats x(40 * 8);
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = float(i * 7 % 11) / 11;
  return x;
}();
const data::Rows rows(points, Shape{8});

Trainer<Model> trainer_of(std::uint64_t seed = 3) { return Trainer(Model{}, Adam{.learning_rate = 1e-2f}, Cpu(1), seed); }

Floats bits_of(const Trainer<Model>& trainer) {
  const auto& w = trainer.weights();
  Floats bits(w.values.begin(), w.values.end());
  bits.insert(bits.end(), w.state.begin(), w.state.end());
  bits.insert(bits.end(), trainer.learner.average.begin(), trainer.learner.average.end());
  return bits;
}
Floats train(FitOptions options) {
  options.batch_size = 8;  // 5 steps an epoch
  auto trainer = trainer_of();
  trainer.fit(rows, options);
  return bits_of(trainer);
}

struct InterruptAfter {
  std::uint64_t steps;
  bool should_interrupt(const RunState& state) const { return state.steps >= steps; }
};
struct RaiseAfter {
  std::uint64_t steps;
  int signal;
  void step_end(const RunState& state) const {
    if (state.steps == steps) std::raise(signal);
  }
};
static_assert(FitCallback<InterruptAfter> && FitCallback<StopOnSignal>);

std::vector<std::string> files_of(const TemporaryFolder& folder) {
  auto names = list_folder(folder.path);
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace

TEST_CASE("an interrupted run is saved, and goes on with the same bits") {
  const Floats whole = train({.epochs = 3, .average = 0.9f});
  for (const std::uint64_t step : {1, 5, 7, 14}) {
    INFO("interrupted after step ", step);
    const TemporaryFolder folder;
    const Checkpoints checkpoints{.folder = folder.path, .resume = true};
    const InterruptAfter interrupt{step};
    CHECK(train({.epochs = 3, .average = 0.9f, .checkpoints = checkpoints, .callbacks = {interrupt}}) != whole);
    CHECK(load_checkpoint(folder / files_of(folder).back()).step == step);
    CHECK(train({.epochs = 3, .average = 0.9f, .checkpoints = checkpoints}) == whole);
  }
}

TEST_CASE("signals end a run after the step") {
  struct Before {
    void (*handler)(int) = std::signal(SIGTERM, SIG_IGN);
    ~Before() { std::signal(SIGTERM, handler); }
  } before;
  for (const int signal : {SIGINT, SIGTERM}) {
    const TemporaryFolder folder;
    const RaiseAfter raise{3, signal};
    StopOnSignal stop;
    CHECK(stop.signal() == 0);
    train({.checkpoints = Checkpoints{.folder = folder.path}, .callbacks = {raise, stop}});
    CHECK(stop.signal() == signal);
    CHECK(files_of(folder) == std::vector<std::string>{"checkpoint-000000000003.safetensors"});
  }
  CHECK((std::signal(SIGTERM, SIG_IGN) == SIG_IGN));  // as before
}

TEST_CASE("checkpoints of the best epochs") {
  const TemporaryFolder folder;
  auto trainer = trainer_of();
  const auto history = trainer.fit(rows, {.epochs = 8, .batch_size = 8, .validation = rows, .learning_rate = Schedule(Constant{30}),
                                          .checkpoints = Checkpoints{.folder = folder.path, .best = 2}});  // a rate at which losses rise and fall
  std::vector<std::pair<double, std::int64_t>> order;
  for (const auto& row : history) order.push_back({row.val_recon + row.val_kl, row.step});
  std::sort(order.begin(), order.end());
  REQUIRE(std::min(order[0].second, order[1].second) < 35);  // not simply the last two
  const CheckpointStore best(folder.path, "best"), last(folder.path);
  std::vector<std::string> expected{best.path_of(std::uint64_t(order[0].second)), best.path_of(std::uint64_t(order[1].second)), last.path_of(35), last.path_of(40)};
  std::sort(expected.begin(), expected.end());
  std::vector<std::string> found;
  for (const auto& name : files_of(folder)) found.push_back(folder / name);
  CHECK(found == expected);

  SUBCASE("any of them can be gone on from") {
    auto again = trainer_of();
    const auto resumed = again.fit(rows, {.epochs = 8, .batch_size = 8, .validation = rows, .learning_rate = Schedule(Constant{30}),
                                          .checkpoints = Checkpoints{.folder = folder / "other", .resume = true, .from = found[0]}});
    CHECK(bits_of(again) == bits_of(trainer));
    CHECK(resumed.size() == 8);
  }
  SUBCASE("one of another run, or a file that is none, is refused") {
    auto other = trainer_of(4);
    CHECK_THROWS_WITH_AS(other.fit(rows, {.batch_size = 8, .checkpoints = Checkpoints{.folder = folder.path, .resume = true, .from = found[0]}}),
                         doctest::Contains("this checkpoint is of another run: seed 3"), Error);
    save(folder / "model.safetensors", trainer.weights());
    CHECK_THROWS_WITH_AS(other.fit(rows, {.checkpoints = Checkpoints{.folder = folder.path, .resume = true, .from = folder / "model.safetensors"}}),
                         doctest::Contains("is no checkpoint"), Error);
  }
}

TEST_CASE("checkpoints by the clock") {
  struct Watch {
    int saved = 0;
    void step_end(const RunState& state) { saved += state.saved + 1 == state.steps; }
  };
  Watch always, never;
  const TemporaryFolder folder;
  train({.epochs = 2, .checkpoints = Checkpoints{.folder = folder.path, .every_seconds = 1e-9}, .callbacks = {always}});
  train({.epochs = 2, .checkpoints = Checkpoints{.folder = folder.path, .every_seconds = 1e9}, .callbacks = {never}});
  CHECK(always.saved == 9);  // before each step but the first
  CHECK(never.saved == 1);   // after the first epoch
}

TEST_CASE("the average of the weights") {
  struct Mean {
    Trainer<Model>& trainer;
    std::vector<double> values{trainer.weights().values.begin(), trainer.weights().values.end()};
    void step_end(const RunState& state) {
      const double n = double(state.steps), decay = std::min(0.8, (1 + n) / (10 + n));
      for (std::size_t i = 0; i < values.size(); ++i) values[i] = decay * values[i] + (1 - decay) * trainer.weights().values[long(i)];
    }
  };
  auto trainer = trainer_of();
  Mean mean{trainer};
  const auto history = trainer.fit(rows, {.epochs = 10, .batch_size = 8, .validation = rows, .average = 0.8f, .callbacks = {mean}});
  const auto averaged = trainer.averaged_weights();
  for (std::size_t i = 0; i < mean.values.size(); ++i) CHECK(averaged.values[long(i)] == doctest::Approx(mean.values[i]).epsilon(1e-5));
  CHECK(trainer.evaluate(rows, 8).objective != history.back().val_loss);
  trainer.weights() = averaged;
  CHECK(trainer.evaluate(rows, 8).objective == history.back().val_loss);  // the average is what is validated
  CHECK(trainer_of().averaged_weights().values[0] == trainer_of().weights().values[0]);

  CHECK_THROWS_WITH(train({.average = 1.0f}), "vaelib: FitOptions::average is 1, expected 0 or more and less than 1");
}

TEST_CASE("a batch in parts") {
  using Plain = Vae<Sequential<Shape{8}, Linear<4>, ReLU>, Gaussian<2>, Sequential<Shape{2}, Linear<8>>, Bernoulli>;  // batch norm sees the parts
  const auto fit = [](std::int64_t micro_batch) {
    Trainer<Plain> trainer(Plain{}, Adam{}, Cpu(1), 3);
    trainer.fit(rows, {.epochs = 1, .batch_size = 20, .micro_batch = micro_batch});
    return Floats(trainer.weights().values.begin(), trainer.weights().values.end());
  };
  const Floats whole = fit(0);
  CHECK(fit(20) == whole);
  CHECK(fit(100) == whole);
  for (const std::int64_t part : {1, 7, 10}) {
    const Floats parts = fit(part);
    for (std::size_t i = 0; i < whole.size(); ++i) CHECK(parts[i] == doctest::Approx(whole[i]).epsilon(2e-4));
  }
  CHECK_THROWS_WITH(fit(-1), "vaelib: FitOptions::micro_batch is -1, expected 0 or more");
}

TEST_CASE("reading ahead") {
  CHECK(train({.epochs = 3, .read_ahead = true}) == train({.epochs = 3}));

  struct Failing {
    std::int64_t size() const { return 40; }
    Shape shape() const { return Shape{8}; }
    int classes() const { return 0; }
    void fill(std::uint64_t epoch, std::span<const std::uint32_t> wanted, float* features, std::int32_t* labels) const {
      if (epoch == 1 && std::find(wanted.begin(), wanted.end(), 17u) != wanted.end()) fail("row 17 is damaged");
      rows.fill(epoch, wanted, features, labels);
    }
  };
  for (const bool ahead : {false, true}) {
    auto trainer = trainer_of();
    CHECK_THROWS_WITH_AS(trainer.fit(Failing{}, {.epochs = 3, .batch_size = 8, .read_ahead = ahead}), "row 17 is damaged", Error);
    CHECK(trainer.learner.steps >= 5);
    CHECK(trainer.learner.steps < 10);
    trainer.fit(rows, {.epochs = 1, .batch_size = 8, .read_ahead = ahead});  // and is as good as new
  }
}

TEST_CASE("an encoder that learns alone between steps, while what it tells of the data grows") {
  const auto parameters = [](const Trainer<Model>& trainer, const char* prefix) {
    Floats numbers;
    for (const auto& [name, p] : trainer.weights().parameters)
      if (name.starts_with(prefix)) numbers.insert(numbers.end(), trainer.weights().values.data() + p.offset, trainer.weights().values.data() + p.offset + p.size());
    return numbers;
  };
  {
    auto trainer = trainer_of();
    const auto encoder = parameters(trainer, "encoder."), decoder = parameters(trainer, "decoder.");
    const auto first = trainer.learner.refine({8, Shape{8}, points.data()}, {}, "encoder.", 0);
    CHECK(first.accepted);
    CHECK(parameters(trainer, "encoder.") != encoder);
    CHECK(parameters(trainer, "decoder.") == decoder);
    CHECK(trainer.learner.steps == 0);
    CHECK(trainer.learner.updates[0] == 0);
    const auto second = trainer.learner.refine({8, Shape{8}, points.data()}, {}, "encoder.", 1);
    CHECK(second.reconstruction != first.reconstruction);
  }

  // The batch normalisation of the encoder counts its updates.
  const auto updates_of = [](int window, int most, const std::vector<double>& information) {
    struct Watch {
      int asked = 0;
      std::vector<bool> refining{};
      void epoch_end(const RunState& state) { refining.push_back(state.refining); }
    } watch;
    const auto measure = [&] { return information[std::size_t(watch.asked++)]; };
    auto trainer = trainer_of();
    const auto steps = std::int64_t(information.size()) * 5;
    trainer.fit(rows, {.epochs = std::int64_t(information.size()), .batch_size = 8, .aggressive = AggressiveEncoder{.information = measure, .window = window, .most = most}, .callbacks = {watch}});
    for (const auto& [name, s] : trainer.weights().states)
      if (name.ends_with("num_batches_tracked")) return std::tuple(std::int64_t(trainer.weights().state[s.offset]) - steps, watch.asked, watch.refining);
    return std::tuple(std::int64_t(-1), 0, watch.refining);
  };
  CHECK(updates_of(7, 7, {1}) == std::tuple(std::int64_t(5 * 7), 1, std::vector<bool>{true}));
  CHECK(updates_of(2, 5, {1, 2, 2, 9}) == std::tuple(std::get<0>(updates_of(2, 5, {1, 2, 2})), 3, std::vector<bool>{true, true, false, false}));
  CHECK(std::get<2>(updates_of(2, 5, {NAN, 1})) == std::vector<bool>{false, false});
  const auto few = std::get<0>(updates_of(3, 3000, {1}));  // ends where a window is no better than the one before
  CHECK(few % 3 == 0);
  CHECK(few >= 5 * 2 * 3);
  CHECK(few < 5 * 300);

  // an interruption changes no bit, wherever it comes
  const auto trained = [&](std::vector<std::uint64_t> stops, bool read_ahead) {
    const TemporaryFolder folder;
    int epoch = 0;
    const auto measure = [&] { return epoch < 2 ? 1.0 + epoch : 0.0; };
    struct Count {
      int& epoch;
      void epoch_end(const RunState& state) const { epoch = int(state.epoch); }
    } count{epoch};
    stops.push_back(1000);
    Floats bits;
    for (const auto stop : stops) {
      InterruptAfter interrupt{stop};
      auto trainer = trainer_of();
      trainer.fit(rows, {.epochs = 5, .batch_size = 8, .aggressive = AggressiveEncoder{.information = measure, .window = 2, .most = 6}, .read_ahead = read_ahead,
                         .checkpoints = Checkpoints{.folder = folder.path, .resume = true}, .callbacks = {count, interrupt}});
      bits = bits_of(trainer);
    }
    return bits;
  };
  const auto whole = trained({}, false);
  CHECK(trained({3, 12, 18}, true) == whole);
  CHECK(trained({20}, false) == whole);
  CHECK(train({.epochs = 5}) != whole);

  const auto one = [] { return 1.0; };
  auto trainer = trainer_of();
  const auto refused = [&](AggressiveEncoder aggressive, const char* sentence) {
    CHECK_THROWS_WITH_AS(trainer.fit(rows, {.aggressive = aggressive}), doctest::Contains(sentence), Error);
  };
  refused({}, "AggressiveEncoder::information is missing");
  refused({.information = one, .encoder = "enkoder."}, "AggressiveEncoder::encoder is 'enkoder.', with which no parameter's name begins");
  refused({.information = one, .window = 0}, "at least 1, found 0 and 100");
}
