// PixelVae: what a pixel may see, gradients, and drawing.
#include <doctest/doctest.h>

#include <vaelib/models/pixel_vae.hpp>
#include <vaelib/models/collapse_control.hpp>
#include <vaelib/train/gradient_check.hpp>
#include <vaelib/vae.hpp>

using namespace vaelib;

namespace {

constexpr Shape image{6, 6, 1};
using Encoder = Sequential<image, Flatten, Linear<12>, ReLU>;
using Decoder = Sequential<Shape{3}, Linear<6 * 6 * 4>, Reshape<Shape{6, 6, 4}>>;
using Model = PixelVae<Encoder, Gaussian<3>, Decoder, Bernoulli, PixelStack<3>, CollapseControl>;

std::vector<float> logits_of(const Weights<Model, Cpu>& weights, const std::vector<float>& x, const std::vector<float>& z) {
  Session session(weights, Cpu(1));
  return session.run(1, image, x.data(), nullptr, 0, [&](auto& step, const auto& m, const auto& batch) {
    return m.decode(step, step.template constant<Shape{3}>(batch.space, 3, z.data()), batch);
  });
}

struct Skips {
  PixelStack<3> stack{.layers = 2, .skips = true};
  void build() { stack.build({4, 4, 1}, {4, 4, 2}); }
  void fields(auto&& f) { f("stack", stack); }
};

}  // namespace

TEST_CASE("PixelVae: a pixel depends on those before it and on z, never on itself or those behind it") {
  for (const bool skips : {false, true}) {
    Model model;
    model.stack.layers = 2;
    model.stack.skips = skips;
    const Weights<Model, Cpu> weights(model, 5);
    std::vector<float> x(36, 0.5f), z{0.3f, -1, 0.5f};
    const auto before = logits_of(weights, x, z);
    const int changed = 15;
    x[changed] = 3;
    const auto after = logits_of(weights, x, z);
    int moved = 0;
    for (int p = 0; p < 36; ++p) {
      if (p <= changed) CHECK(after[std::size_t(p)] == before[std::size_t(p)]);
      moved += after[std::size_t(p)] != before[std::size_t(p)];
      const int down = p / 6 - changed / 6;
      if (down > weights.model.stack.sight()) CHECK(after[std::size_t(p)] == before[std::size_t(p)]);
    }
    CHECK(moved > 3);
    z[0] = 1;
    CHECK(logits_of(weights, x, z)[0] != after[0]);
  }
}

TEST_CASE("PixelStack: gradients") {
  const auto forward = [](auto& s, const auto& m, auto v) {
    const auto x = view<Shape{4, 4, 1}>(columns<Shape{16}>(s, v, 0));
    return view<Shape{16}>(m.stack(s, x, view<Shape{4, 4, 2}>(columns<Shape{32}>(s, v, 16))));
  };
  const auto report = gradient_check<Shape{48}>(Skips{}, forward, {.rows = 2}, Shape{48});
  INFO(report.summary());
  CHECK(report.passed());
}

TEST_CASE("PixelVae trains with every way to weaken its decoder, and draws") {
  const data::Shapes shapes{.image_size = 12, .images = 64};
  using Large = PixelVae<Sequential<Shape{12, 12, 1}, Flatten, Linear<12>, ReLU>, Gaussian<3>,
                         Sequential<Shape{3}, Linear<12 * 12 * 4>, Reshape<Shape{12, 12, 4}>>, Bernoulli>;
  Large model;
  model.stack.layers = 1;
  model.stack.drop.probability = 0.3f;
  Trainer trainer{model, Adam{.learning_rate = 3e-3f}, Cpu(1)};
  const auto history = trainer.fit(shapes, {.epochs = 12, .batch_size = 16});
  CHECK(history.back().train_recon < 0.7 * history.front().train_recon);
  Session session(trainer.weights(), Cpu(2));
  const auto drawn = draw_pixels(session, 5, {12, 12, 1}, 3);
  CHECK(drawn.size() == 5 * 144);
  for (const float v : drawn) CHECK((v == 0 || v == 1));
  CHECK(drawn == draw_pixels(session, 5, {12, 12, 1}, 3));
  CHECK_THROWS_WITH_AS(draw_pixels(session, 5, {12, 12, 3}, 3), doctest::Contains("one channel"), Error);
  using Misfit = PixelVae<Encoder, Gaussian<3>, Sequential<Shape{3}, Linear<5 * 5 * 4>, Reshape<Shape{5, 5, 4}>>, Bernoulli>;
  CHECK_THROWS_WITH_AS((Weights<Misfit, Cpu>(Misfit{})), doctest::Contains("height and width have to be the same"), Error);
}
