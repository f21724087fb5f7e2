// A deep Set Transformer whose blocks are computed again in the backward pass: the same bits, less than a third of the memory.
#include <doctest/doctest.h>
#include <vaelib/backend/cpu/cpu.hpp>
#include <vaelib/layers/checkpointed.hpp>
#include <vaelib/layers/set_attention.hpp>
#include <vaelib/train/weights.hpp>

using namespace vaelib;

namespace {

constexpr int width = 64, layers = 12;
constexpr Shape wide{width};

template <class Layer>
struct Deep {
  std::vector<Checkpointed<Layer>> blocks{};
  Checkpointed<PMA<width, 4>> pool{};
  explicit Deep(bool again) : blocks(layers, Checkpointed<Layer>{.on = again}), pool{.on = again} {}
  void build() {
    for (auto& block : blocks) block.build(wide);
    pool.build(wide);
  }
  void fields(auto&& f) {
    for (int l = 0; l < layers; ++l) f(text("blocks.", l), blocks[std::size_t(l)]);
    f("pool", pool);
  }
};

struct Result {
  std::vector<float> values, gradients;
  std::size_t bytes = 0;  ///< of activations, gradients of activations and scratch
};

template <class Layer>
Result run(bool again, const std::vector<long>& offsets, int threads) {
  const Weights<Deep<Layer>, Cpu> weights(Deep<Layer>{again}, 3);
  std::vector<float> points(std::size_t(offsets.back() * width));
  normal(RandomKey{.seed = 2}, 0, offsets.back(), width, points.data());
  Buffer<float> gradients(weights.values.size());
  Buffer<bool> written(long(weights.parameters.size())), trained(long(weights.parameters.size()));
  std::fill_n(trained.data(), trained.size(), true);
  auto b = weights.buffers();
  b.gradients = gradients.data();
  b.written = written.data();
  b.trained = trained.data();
  Cpu cpu(threads);
  Step<Cpu> step(cpu);
  Result result;
  step.begin(b, Mode::training, 0, 1, Stream::noise);
  auto x = step.constant<wide>(step.ragged(long(offsets.size()) - 1, offsets.data()), wide, points.data());
  for (const auto& block : weights.model.blocks) x = block.forward(step, x);
  const auto y = weights.model.pool.forward(step, x);
  step.backward(mean_rows(step, sum_features(step, map(step, Square{}, y))));
  result.values.assign(y.value(), y.value() + y.size());
  for (const auto& [name, p] : weights.parameters) {
    CHECK(written[p.id]);
    result.gradients.insert(result.gradients.end(), gradients.data() + p.offset, gradients.data() + p.offset + p.size());
  }
  step.end();
  result.bytes = step.bytes_held();
  return result;
}

template <class Layer>
void check() {
  INFO(type_name<Layer>());
  const std::vector<long> offsets{0, 400, 401, 401, 1000, 2000};
  const auto plain = run<Layer>(false, offsets, 2), again = run<Layer>(true, offsets, 2);
  CHECK(plain.values == again.values);
  CHECK(plain.gradients == again.gradients);
  MESSAGE("activation memory ", plain.bytes >> 20, " MiB, with checkpoints ", again.bytes >> 20, " MiB");
  CHECK(3 * again.bytes < plain.bytes);
}

}  // namespace

TEST_CASE("Checkpointed: twelve layers of a Set Transformer") {
  check<SAB<width, 4>>();
  check<ISAB<width, 4>>();
}
