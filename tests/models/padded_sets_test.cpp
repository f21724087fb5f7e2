// Padded arrays with a mask are made ragged at the edge: from there on every layer of sets and SetVae give the same bits as for
// ragged sets, whatever stands in the padding.
#include <doctest/doctest.h>

#include <vaelib/backend/cpu/cpu.hpp>
#include <vaelib/data/point_sets.hpp>
#include <vaelib/layers/set_pooling.hpp>
#include <vaelib/models/set_vae.hpp>
#include <vaelib/train/trainer.hpp>

using namespace vaelib;

namespace {

using Floats = std::vector<float>;

/// Every block, one after another; learns to give sets of small numbers.
struct Blocks {
  Linear<6> embed{};
  ISAB<6, 2> isab{.inducing = 3};
  ISAB<6, 2, ReLU, Over::slots> slots{.inducing = 2};
  SAB<6, 3> sab{};
  PMA<6, 1> pma{.seeds = 2};

  void build() {
    embed.build(Shape{3});
    isab.build(Shape{6});
    slots.build(Shape{6});
    sab.build(Shape{6});
    pma.build(Shape{6});
  }
  void fields(auto&& f) { f("embed", embed), f("isab", isab), f("slots", slots), f("sab", sab), f("pma", pma); }
  Shape input_shape() const { return {3}; }
  template <class S, class B>
  auto loss(S& step, const B& batch) const {
    const auto x = embed.forward(step, points_of<Shape{3}>(step, batch));
    const auto h = sab.forward(step, slots.forward(step, isab.forward(step, x)));
    const auto pooled = pool_sets(step, Pooling::mean, pma.forward(step, h), batch.space);
    const auto all = add(step, add(step, pooled, pool_sets(step, Pooling::max, h, batch.space)), pool_sets(step, Pooling::sum, h, batch.space));
    return mean_rows(step, sum_features(step, map(step, Square{}, all)));
  }
};

/// The same sets twice: padded with garbage, true points anywhere in their rows, and ragged.
struct Twice {
  data::PointClouds padded, ragged;

  static Twice random(std::uint64_t seed) {
    RandomSequence numbers(RandomKey{.seed = seed});
    const auto unit = [&] { return float(numbers.next() >> 8) / float(1 << 23) - 1; };
    const Floats garbage{std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(), -3e38f, 0, 1};
    const std::int64_t sets = 6 + numbers.below(6), room = 1 + numbers.below(30);
    Floats all, kept;
    std::vector<std::uint8_t> mask;
    std::vector<std::int64_t> offsets{0};
    for (std::int64_t s = 0; s < sets; ++s) {
      const auto share = s == 0 ? 0 : s == 1 ? 100 : numbers.below(101);  // an empty set and a full one, at least
      for (std::int64_t p = 0; p < room; ++p) {
        mask.push_back(numbers.below(100) < share);
        for (int d = 0; d < 3; ++d) {
          all.push_back(mask.back() ? unit() : garbage[numbers.below(5)]);
          if (mask.back()) kept.push_back(all.back());
        }
      }
      offsets.push_back(std::int64_t(kept.size() / 3));
    }
    return {data::PointClouds::of_padded(all, sets, room, 3, mask), data::PointClouds(3, kept, offsets)};
  }
};

/// Weights after some steps, and what they are worth.
template <class Model>
Floats learned(const Model& model, const data::PointClouds& sets) {
  Trainer<Model> trainer{model, Adam{.learning_rate = 1e-2f}, Cpu(2)};
  const auto history = trainer.fit(sets, {.epochs = 2, .batch_size = 4, .validation = sets});
  Floats result(trainer.weights().values.begin(), trainer.weights().values.end());
  for (const auto& epoch : history) result.push_back(float(epoch.train_loss)), result.push_back(float(epoch.val_loss));
  for (const float v : result) REQUIRE(std::isfinite(v));
  return result;
}

}  // namespace

TEST_CASE("padded sets with garbage in the padding give the bits of ragged ones: layers, SetVae's loss and its learning") {
  SetVaeOptions o;
  o.width = 8;
  o.heads = o.latent = 2;
  o.inducing = {3, 2};
  for (std::uint64_t seed = 0; seed < 12; ++seed) {
    CAPTURE(seed);
    const auto [padded, ragged] = Twice::random(seed);
    CHECK(learned(Blocks{}, padded) == learned(Blocks{}, ragged));
    CHECK(learned(SetVae(o), padded) == learned(SetVae(o), ragged));
  }
}
