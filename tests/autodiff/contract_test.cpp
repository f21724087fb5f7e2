// The seven contracts on which later models rest, each with the same bits at 1, 2 and 4 threads after 100 steps.
#include "toy_models.hpp"

#include <doctest/doctest.h>

#include <cstdlib>

#include "../io/faults.hpp"

using namespace vaelib;
using io_test::TemporaryFolder;

namespace {

constexpr int epochs = 20;  // of 5 batches: 100 steps

template <class Model>
std::vector<float> same_bits_at_any_thread_count() {
  const auto one = toy::train<Model>(1, epochs);
  for (const float v : one) REQUIRE(std::isfinite(v));
  CHECK(toy::train<Model>(2, epochs) == one);
  CHECK(toy::train<Model>(4, epochs) == one);
  CHECK(toy::train<Model>(1, epochs - 1) != one);
  return one;
}

/// How much smaller the loss becomes: last / first.
template <class Model>
double loss_ratio() {
  Trainer trainer(Model{}, Adam{.learning_rate = 1e-2f}, Cpu(1), 7);
  const auto history = trainer.fit(toy::Patterns{}, {.epochs = epochs, .batch_size = 24});
  return history.back().train_loss / history.front().train_loss;
}

}  // namespace

TEST_CASE("batch norm couples samples and keeps state") {
  same_bits_at_any_thread_count<toy::BatchNormed>();
  CHECK(loss_ratio<toy::BatchNormed>() < 0.95);

  Learner<toy::BatchNormed, Adam, Cpu> learner({}, {}, Cpu(2), 1);
  std::vector<float> x(24 * 36);
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = float(i % 11) / 11;
  const Batch<float> batch{24, toy::pixels, x.data()};
  const auto state = [&] { return std::vector<float>(learner.weights.state.begin(), learner.weights.state.end()); };
  const auto before = state();
  learner.evaluate(batch, 1, 0, 0);
  CHECK(state() == before);  // evaluation proposes nothing
  learner.learn(batch);
  const auto after = state();
  CHECK(after != before);
  x[5] = NAN;
  CHECK(!learner.learn(batch, {.non_finite = NonFinite::skip}).accepted);
  CHECK(state() == after);  // a rejected step changes no state
}

TEST_CASE("free bits act on the batch mean of a dimension") {
  same_bits_at_any_thread_count<toy::FreeBits>();
  // with a floor that no dimension reaches, the divergence has no gradient: beta does not matter
  const auto trained = [](float floor, float beta) {
    toy::FreeBits model;
    model.elbo.free_bits = floor;
    return toy::train<toy::FreeBits>(1, 2, {.beta = beta}, model);
  };
  CHECK(trained(1e6f, 0.0f) == trained(1e6f, 100.0f));
  CHECK(trained(0.05f, 0.0f) != trained(0.05f, 100.0f));
}

TEST_CASE("attention of two ragged inputs") { same_bits_at_any_thread_count<toy::Attending>(); }

TEST_CASE("one encoder run twice in a step") {
  same_bits_at_any_thread_count<toy::Twice>();
  CHECK(loss_ratio<toy::Twice>() < 0.95);
}

TEST_CASE("two phases: a discriminator and a generator") {
  same_bits_at_any_thread_count<toy::Gan>();
  Learner<toy::Gan, Adam, Cpu> learner({}, {}, Cpu(1), 1);
  learner.groups = {{.prefix = "generator.", .rate = 0}};
  std::vector<float> x(24 * 36, 0.5f);
  const std::vector<float> before(learner.weights.values.begin(), learner.weights.values.end());
  learner.learn({24, toy::pixels, x.data()});
  bool discriminator_moved = false, generator_moved = false;
  for (const auto& [name, p] : learner.weights.parameters)
    for (long i = p.offset; i < p.offset + p.size(); ++i)
      (name.starts_with("generator.") ? generator_moved : discriminator_moved) |= learner.weights.values[i] != before[i];
  CHECK(discriminator_moved);
  CHECK(!generator_moved);  // frozen: neither gradient nor moments touch it
}

TEST_CASE("a checkpointed block with dropout and batch norm is the plain block") {
  const auto again = same_bits_at_any_thread_count<toy::Checkpointed<true>>();
  CHECK(again == toy::train<toy::Checkpointed<false>>(1, epochs));
}

TEST_CASE("a run resumed in mid-epoch has the bits of an undisturbed one") {
  const auto undisturbed = toy::train<toy::Checkpointed<true>>(1, 4);
  for (const int threads : {1, 2, 4}) {
    TemporaryFolder folder;
    struct Interrupted {};
    struct Failing : toy::Patterns {  // the data gives up in the middle of the third epoch
      int* left;
      void fill(std::uint64_t epoch, std::span<const std::uint32_t> wanted, float* out, std::int32_t* labels) const {
        if (--*left < 0) throw Interrupted{};
        Patterns::fill(epoch, wanted, out, labels);
      }
    };
    FitOptions options{.epochs = 4, .batch_size = 24, .checkpoints = Checkpoints{.folder = folder.path, .every = 3, .resume = true}};
    int batches = 13;
    Failing data;
    data.left = &batches;
    {
      Trainer first(toy::Checkpointed<true>{}, Adam{.learning_rate = 1e-2f}, Cpu(threads), 7);
      CHECK_THROWS_AS(first.fit(data, options), Interrupted);
    }
    batches = 1000;
    Trainer second(toy::Checkpointed<true>{}, Adam{.learning_rate = 1e-2f}, Cpu(threads), 7);
    const auto history = second.fit(data, options);
    CHECK(batches == 1000 - 8);  // 12 of 20 steps were saved
    CHECK(history.size() == 4);
    const auto& w = second.weights();
    std::vector<float> bits(w.values.begin(), w.values.end());
    bits.insert(bits.end(), w.state.begin(), w.state.end());
    CHECK(bits == undisturbed);

    Trainer other(toy::Checkpointed<true>{}, Adam{}, Cpu(1), 8);  // another seed is another run
    CHECK_THROWS_AS(other.fit(data, options), Error);
  }
}
