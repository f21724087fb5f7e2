// The VQ-VAE of two levels: it learns, and both levels say something.
#include <doctest/doctest.h>

#include <set>
#include <vaelib/layers/convolution.hpp>
#include <vaelib/models/vq_vae2.hpp>
#include <vaelib/train/gradient_check.hpp>
#include <vaelib/train/trainer.hpp>

using namespace vaelib;

namespace {

constexpr Shape pixels{16, 16, 1};
using Bottom = Sequential<pixels, Conv2d<16, 4, 2, 1>, ReLU, Conv2d<8, 4, 2, 1>>;
using Top = Sequential<Shape{4, 4, 8}, ReLU, Conv2d<16, 4, 2, 1>, ReLU, Conv2d<4, 1>>;
using TopDecoder = Sequential<Shape{2, 2, 4}, ConvTranspose2d<8, 4, 2, 1>>;
using Conditional = Sequential<Shape{4, 4, 16}, Conv2d<4, 1>>;
using Decoder = Sequential<Shape{4, 4, 12}, Conv2d<16, 3, 1, 1>, ReLU, ConvTranspose2d<16, 4, 2, 1>, ReLU,
                           ConvTranspose2d<1, 4, 2, 1>>;
// four codes below are too few to say everything, which they would otherwise do alone
using Model = VqVae2<Bottom, Top, VectorQuantizer<16>, TopDecoder, Conditional, VectorQuantizer<4>, Decoder>;

/// A bright or dark image with a stripe.
struct Stripes {
  std::int64_t size() const { return 96; }
  Shape shape() const { return pixels; }
  int classes() const { return 0; }
  void fill(std::uint64_t, std::span<const std::uint32_t> rows, float* out, std::int32_t*) const {
    for (const auto row : rows)
      for (int i = 0; i < 16; ++i)
        for (int j = 0; j < 16; ++j)
          *out++ = 0.1f + 0.15f * float(row % 6) + ((row % 2 ? i : j) / 2 == int(row / 6 % 8) ? 0.15f : 0.0f);
  }
};

}  // namespace

TEST_CASE("channels of two images side by side") {
  constexpr Shape any{dynamic, dynamic, dynamic};
  const auto report = gradient_check<any>(
      Sequential<any, Conv2d<2, 1>>{Shape{3, 2, 3}},
      [](auto& step, const auto& layer, auto x) { return concatenate_channels(step, layer(step, x), x); }, {},
      Shape{3, 2, 3});
  INFO(report.summary());
  CHECK(report.passed());

  Cpu cpu(1);
  Step<Cpu> step(cpu);
  step.begin({}, Mode::evaluation, 1, 1, Stream::noise);
  const float a[] = {1, 2, 3, 4}, b[] = {5, 6};
  const auto* space = step.rows(1);
  const auto y = concatenate_channels(step, step.constant<Shape{1, 2, 2}>(space, {1, 2, 2}, a),
                                      step.constant<Shape{1, 2, 1}>(space, {1, 2, 1}, b));
  static_assert(decltype(y)::static_shape == Shape{1, 2, 3});
  CHECK(std::vector<float>(y.value(), y.value() + 6) == std::vector<float>{1, 2, 5, 3, 4, 6});
  CHECK_THROWS_AS(concatenate_channels(step, y, step.constant<Shape{2, 1, 1}>(space, {2, 1, 1}, b)), Error);
}

TEST_CASE("a VQ-VAE of two levels learns, uses the codes of both, and decodes what each says") {
  const auto train = [](int threads) {
    Model model;
    model.top_quantizer.options.commitment = model.bottom_quantizer.options.commitment = 1.0f;
    Trainer trainer(model, Adam{.learning_rate = 3e-3f}, Cpu(threads), 1);
    const auto history = trainer.fit(Stripes{}, {.epochs = 60, .batch_size = 16, .validation = Stripes{}});
    CHECK(history.back().val_loss < 0.1 * history.front().val_loss);
    CHECK(history.back().val_loss == history.back().val_recon);
    return trainer.weights();
  };
  const auto weights = train(1);
  const auto two = train(2);
  CHECK(std::equal(weights.values.begin(), weights.values.end(), two.values.begin()));
  CHECK(std::equal(weights.state.begin(), weights.state.end(), two.state.begin()));

  std::vector<float> images(96 * 256);
  std::vector<std::uint32_t> rows(96);
  for (std::uint32_t r = 0; r < 96; ++r) rows[r] = r;
  Stripes{}.fill(0, rows, images.data(), nullptr);
  Cpu cpu(1);
  Step<Cpu> step(cpu);
  step.begin(weights.buffers(), Mode::evaluation, 1, 1, Stream::evaluation);
  const auto& model = weights.model;
  const auto x = step.constant<pixels>(step.rows(96), pixels, images.data());
  const auto q = model.quantize(step, x);
  CHECK(q.top.vectors == 96 * 4);
  CHECK(q.bottom.vectors == 96 * 16);
  CHECK(std::set<int>(q.top.codes, q.top.codes + q.top.vectors).size() >= 8);
  CHECK(std::set<int>(q.bottom.codes, q.bottom.codes + q.bottom.vectors).size() == 4);

  // the codes of one level with those of the next image: both matter
  const auto error = [&](auto top, auto bottom) {
    return double(*SquaredError{}(step, model.decode(step, top, bottom), x).value());
  };
  const auto moved = [&](auto v) {
    auto w = step.template variable<decltype(v)::static_shape>(v.space(), v.shape, false);
    std::rotate_copy(v.value(), v.value() + v.features(), v.value() + v.size(), w.value());
    return w;
  };
  const double right = error(q.top.values, q.bottom.values);
  CHECK(error(moved(q.top.values), q.bottom.values) > 5 * right);
  CHECK(error(q.top.values, moved(q.bottom.values)) > 1.2 * right);
}
