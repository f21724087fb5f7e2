#include <doctest/doctest.h>

#include <vaelib/train/tensorboard_log.hpp>
#include <vaelib/vae.hpp>

#include "../io/faults.hpp"

using namespace vaelib;
using io_test::TemporaryFolder;

namespace {

using Model = Vae<Sequential<Shape{8}, Linear<4>, ReLU>, Gaussian<2>, Sequential<Shape{2}, Linear<8>>, Bernoulli>;

std::vector<float> points() {
  std::vector<float> x(40 * 8);
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = float(i * 7 % 11) / 11;
  return x;
}

struct Counter {
  int steps = 0, epochs = 0;
  double last = 0;
  void step_end(const RunState& state) {
    ++steps;
    CHECK(state.steps == std::uint64_t(steps));
    CHECK(state.last.objective > 0);
  }
  void epoch_end(const RunState& state) {
    ++epochs;
    CHECK(std::size_t(epochs) == state.history.size());
    last = state.history.back().train_loss;
  }
};
struct After {
  std::size_t epochs;
  bool should_stop(const RunState& state) const { return state.history.size() >= epochs; }
};
struct Nothing {};
static_assert(FitCallback<Counter> && FitCallback<const After> && FitCallback<EarlyStopping> && !FitCallback<Nothing>);

/// A history of validation losses.
RunState seen(std::initializer_list<double> losses) {
  RunState state;
  for (const double loss : losses) {
    EpochMetrics m;
    m.val_recon = loss - 1;
    m.val_kl = 1;
    state.history.push_back(m);
  }
  return state;
}

}  // namespace

TEST_CASE("callbacks see every step and epoch, and may end the run") {
  const auto x = points();
  Counter counter;
  const After after{3};
  Trainer trainer(Model{}, Adam{}, Cpu(1));
  const auto history = trainer.fit(data::Rows(x, Shape{8}), {.epochs = 10, .batch_size = 16, .callbacks = {counter, after}});
  CHECK(history.size() == 3);
  CHECK(counter.epochs == 3);
  CHECK(counter.steps == 9);
  CHECK(counter.last == history.back().train_loss);
}

TEST_CASE("what decides by the history decides the same after an interruption") {
  const auto x = points();
  const TemporaryFolder folder;
  const After after{3};
  const auto fit = [&](std::int64_t epochs) {
    Trainer trainer(Model{}, Adam{}, Cpu(1));
    return trainer.fit(data::Rows(x, Shape{8}), {.epochs = epochs, .checkpoints = Checkpoints{.folder = folder.path, .resume = true}, .callbacks = {after}}).size();
  };
  CHECK(fit(2) == 2);
  CHECK(fit(9) == 3);
  CHECK(fit(9) == 3);
}

TEST_CASE("early stopping") {
  const EarlyStopping patient{.patience = 2}, strict{.patience = 2, .min_delta = 1}, bounded{.patience = 9, .diverged = 20};
  CHECK(!patient.should_stop(seen({})));
  CHECK(!patient.should_stop(seen({5})));
  CHECK(!patient.should_stop(seen({5, 6})));
  CHECK(patient.should_stop(seen({5, 6, 5})));
  CHECK(!patient.should_stop(seen({5, 6, 4.9, 5})));
  CHECK(strict.should_stop(seen({5, 4.5, 4.1})));
  CHECK(!strict.should_stop(seen({5, 4.5, 3.9})));
  CHECK(!bounded.should_stop(seen({5, 20})));
  CHECK(bounded.should_stop(seen({5, 21})));
  CHECK_THROWS_WITH(patient.should_stop(seen({NAN})), "vaelib: EarlyStopping watches the validation loss; give FitOptions::validation");
}

TEST_CASE("metrics for TensorBoard") {
  const auto x = points();
  const TemporaryFolder folder;
  TensorBoardLog log(folder / "logs");
  const auto before = read_file(log.file.path(), 1 << 20).size();
  Trainer trainer(Model{}, Adam{}, Cpu(1));
  trainer.fit(data::Rows(x, Shape{8}), {.epochs = 2, .callbacks = {log}});
  const std::string file = read_file(log.file.path(), 1 << 20);
  CHECK(file.size() > before);
  for (const char* tag : {"train_loss", "train_recon", "train_kl", "current_beta", "learning_rate"}) {
    std::size_t count = 0;
    for (std::size_t at = file.find(tag); at != std::string::npos; at = file.find(tag, at + 1)) ++count;
    CHECK_MESSAGE(count == 2, tag);
  }
  CHECK(file.find("val_loss") == std::string::npos);
}
