// Ten steps of a SetVae have the losses of PyTorch: tests/golden/make_set_vae.py, which is given first weights, points and
// noise by this program where VAELIB_SET_VAE_INPUTS names a folder for them.
#include <doctest/doctest.h>

#include <vaelib/io/npy.hpp>
#include <vaelib/models/set_vae.hpp>
#include <vaelib/vae.hpp>

#include <cstdlib>

using namespace vaelib;

namespace {

constexpr int width = 8, latent = 2, steps = 10;
const std::vector<int> inducing{3, 2};
const std::vector<long> offsets{0, 5, 6, 15, 19};
constexpr std::uint64_t seed = 7;

SetVae model() {
  SetVaeOptions o;
  o.width = width;
  o.heads = 2;
  o.latent = latent;
  o.inducing = inducing;
  o.weight = 5;
  o.free_bits = 0.1f;
  o.level_weights = {1, 2};
  return SetVae(o);
}
std::vector<float> points() {
  std::vector<float> x(std::size_t(offsets.back()) * 3);
  normal(RandomKey{11}, 0, offsets.back(), 3, x.data());
  return x;
}

/// What a step draws: of the initial set, and of each level, the deepest first.
std::vector<float> noise_of(std::uint64_t step) {
  std::vector<float> all;
  const long sets = long(offsets.size()) - 1;
  RandomKey key{seed, step, std::uint32_t(Stream::noise), 0};
  const auto draw = [&](long rows, int features) {
    std::vector<float> some(std::size_t(rows) * std::size_t(features));
    normal(key, 0, rows, features, some.data());
    ++key.ordinal;
    all.insert(all.end(), some.begin(), some.end());
  };
  draw(offsets.back(), width);
  for (std::size_t l = inducing.size(); l-- > 0;) draw(sets, inducing[l] * latent);
  return all;
}

}  // namespace

TEST_CASE("SetVae: ten steps as in PyTorch") {
  const auto x = points();
  Learner<SetVae, Adam, Cpu> learner(model(), {.learning_rate = 1e-3f}, Cpu(2), seed);
  const std::string golden = VAELIB_TEST_FOLDER "/golden/";
  if (const char* folder = std::getenv("VAELIB_SET_VAE_INPUTS")) {
    const std::string to = std::string(folder) + '/';
    save(to + "set_vae_initial.safetensors", learner.weights);
    write_npy(to + "points.npy", {offsets.back(), 3}, x);
    std::vector<float> noise;
    for (int s = 1; s <= steps; ++s) {
      const auto some = noise_of(std::uint64_t(s));
      noise.insert(noise.end(), some.begin(), some.end());
    }
    write_npy(to + "noise.npy", {steps, std::int64_t(noise.size()) / steps}, noise);
    return;
  }
  load(golden + "set_vae_initial.safetensors", learner.weights);
  const auto losses = read_npy(golden + "set_vae_losses.npy").values;
  REQUIRE(losses.size() == 3 * steps);
  for (int s = 0; s < steps; ++s) {
    const auto result = learner.learn({long(offsets.size()) - 1, Shape{3}, x.data(), nullptr, 0, nullptr, offsets.data()}, {.beta = 0.5f});
    INFO("step ", s);
    CHECK(std::abs(result.objective / double(losses[std::size_t(3 * s)]) - 1) < 1e-5);
    CHECK(std::abs(result.reconstruction / double(losses[std::size_t(3 * s + 1)]) - 1) < 1e-5);
    CHECK(std::abs(result.kl / double(losses[std::size_t(3 * s + 2)]) - 1) < 1e-5);
  }
}
