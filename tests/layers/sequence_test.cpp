// Layers that predict one code after another: gradients, and that what comes later does not change a bit of what is before.
#include <doctest/doctest.h>
#include <vaelib/layers/embedding.hpp>
#include <vaelib/layers/masked_convolution.hpp>
#include <vaelib/likelihoods/categorical.hpp>
#include <vaelib/train/gradient_check.hpp>

using namespace vaelib;

namespace {

constexpr Shape image{dynamic, dynamic, dynamic};
using Floats = std::vector<float>;

Floats normals(long count, std::uint64_t seed) {
  Floats numbers(count);
  normal(RandomKey{.seed = seed}, 0, 1, int(count), numbers.data());
  return numbers;
}

template <class Layer>
void check(Layer layer, Shape shape, long rows) {
  const auto report = check_layer<image>(layer, {.rows = rows}, shape);
  INFO(type_name<Layer>(), " on ", rows, " rows of ", text_of(shape), ": ", report.summary());
  CHECK(report.passed());
}

/// A pixel that the mask does not let through changes no bit; every other one within the kernel changes the output.
template <class Layer>
void check_mask(Mask2d mask, Layer layer, int kernel, int channels, int threads) {
  constexpr int height = 6, width = 7;
  using Chain = Sequential<image, Layer>;
  const Shape shape{height, width, channels};
  const Weights<Chain, Cpu> weights(Chain{shape, layer}, 3);
  const auto outputs = [&](const Floats& input) {
    Cpu cpu(threads);
    Step<Cpu> step(cpu);
    step.begin(weights.buffers(), Mode::evaluation, 0, 1, Stream::noise);
    const auto y = weights.model(step, step.constant<image>(step.rows(2), shape, input.data()));
    return Floats(y.value(), y.value() + y.size());
  };
  const long features = shape.size(), out = layer.out;
  const Floats input = normals(2 * features, 1), before = outputs(input);
  for (int changed = 0; changed < height * width; ++changed) {
    Floats other = input;
    for (int c = 0; c < channels; ++c) other[features + changed * channels + c] += 1000;
    const Floats after = outputs(other);
    int wrong = 0;
    for (int pixel = -height * width; pixel < height * width; ++pixel) {  // the first sample never changes
      const auto *a = before.data() + (height * width + pixel) * out, *b = after.data() + (height * width + pixel) * out;
      const bool same = std::memcmp(a, b, out * sizeof(float)) == 0;
      const int down = changed / width - pixel / width, right = changed % width - pixel % width;
      const bool seen = pixel >= 0 && std::abs(down) <= kernel / 2 && std::abs(right) <= kernel / 2 && passes(mask, down, right);
      wrong += same == seen;
    }
    INFO("mask ", int(mask), ", changed pixel ", changed);
    CHECK(wrong == 0);
  }
}
template <Mask2d M, int Kernel>
void check_masked(int channels, int out, int threads) {
  using Layer = MaskedConv2d<dynamic, Kernel, M>;
  check(Layer{out}, {5, 4, channels}, 3);
  check_mask(M, Layer{out}, Kernel, channels, threads);
}

constexpr std::int32_t codes[] = {2, 0, 4, 4, 1, 3, 3, 0, 2, 1, 4, 0};

}  // namespace

TEST_CASE("MaskedConv2d") {
  check_masked<Mask2d::A, 3>(2, 5, 1);
  check_masked<Mask2d::A, 5>(9, 3, 2);
  check_masked<Mask2d::B, 3>(6, 17, 4);
  check_masked<Mask2d::above, 3>(1, 4, 2);
  check_masked<Mask2d::above_or_level, 3>(5, 20, 1);
  check_masked<Mask2d::left, 5>(8, 2, 2);
  check_masked<Mask2d::left_or_self, 3>(3, 6, 4);
  check(MaskedConv2d<dynamic, 3, Mask2d::B>{3}, {1, 1, 2}, 2);
  check(MaskedConv2d<dynamic, 3, Mask2d::left_or_self>{3}, {2, 3, 2}, 0);
  check(MaskedConv2d<dynamic, 7, Mask2d::A>{3}, {2, 3, 2}, 1);  // a kernel larger than the image
}

TEST_CASE("an embedding of a grid of codes") {
  const auto report = gradient_check<Shape{1}>(
      Embedding<5, 3>{}, [](auto& step, const auto& table, auto x) { return table(step, x.space(), Shape{2, 3, 1}, codes); }, {.rows = 2});
  INFO(report.summary());
  CHECK(report.passed());
}

TEST_CASE("the categorical likelihood") {
  struct Nothing {};
  const auto nll = [](auto& step, const auto&, auto logits) { return categorical_nll(step, logits, codes); };
  for (const long rows : {0, 1, 2}) {
    const auto report = gradient_check<image>(Nothing{}, nll, {.rows = rows, .input_scale = 3}, Shape{2, 3, 5});
    INFO(report.summary());
    CHECK(report.passed());
  }
  const auto many = gradient_check<image>(Nothing{}, nll, {.rows = 12}, Shape{1, 1, 37});
  INFO(many.summary());
  CHECK(many.passed());

  // logits that exp cannot take; the loss is that of the differences
  Cpu cpu(1);
  Step<Cpu> step(cpu);
  const Weights<Nothing, Cpu> none;
  const auto loss = [&](const Floats& logits, std::int32_t target) {
    step.begin(none.buffers(), Mode::evaluation, 0, 1, Stream::noise);
    const auto x = step.constant<Shape{dynamic}>(step.rows(1), Shape{int(logits.size())}, logits.data());
    return double(categorical_nll(step, x, &target).value()[0]);
  };
  for (const float shift : {-1e4f, 0.0f, 1e4f}) CHECK(loss({shift + 1, shift, shift + 1, shift - 2, shift}, 3) == doctest::Approx(std::log(2 * std::exp(3.0) + 2 * std::exp(2.0) + 1)));
  CHECK(loss({-1e30f, 0, 1e30f}, 2) == 0);
  CHECK(loss(Floats(100, -500), 99) == doctest::Approx(std::log(100.0)));
  CHECK(std::isnan(loss({0, NAN, 0}, 0)));
  const std::int32_t beyond = 3;
  step.begin(none.buffers(), Mode::evaluation, 0, 1, Stream::noise);
  const Floats logits(6);
  CHECK_THROWS_WITH_AS(categorical_nll(step, step.constant<image>(step.rows(1), Shape{1, 2, 3}, logits.data()), std::data({0, beyond})),
                       "vaelib: row 0 has the code 3 at position 1, expected 0 to 2", Error);
}
