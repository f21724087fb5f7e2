// Layers that predict one code after another: gradients, and that what comes later does not change a bit of what is
// before.
#include <doctest/doctest.h>
#include <vaelib/layers/embedding.hpp>
#include <vaelib/layers/masked_convolution.hpp>
#include <vaelib/layers/transformer_block.hpp>
#include <vaelib/layers/word_dropout.hpp>
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
      const auto *a = before.data() + (height * width + pixel) * out,
                 *b = after.data() + (height * width + pixel) * out;
      const bool same = std::memcmp(a, b, out * sizeof(float)) == 0;
      const int down = changed / width - pixel / width, right = changed % width - pixel % width;
      const bool seen =
          pixel >= 0 && std::abs(down) <= kernel / 2 && std::abs(right) <= kernel / 2 && passes(mask, down, right);
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

// ---- ragged rows

/// A layer on parameters as the rows of sequences, so that their gradients can be checked.
template <class Layer>
struct OnRows {
  Layer layer{};
  int width = 0;
  std::vector<long> offsets{};
  Parameter rows{};
  void build() {
    rows = {{int(offsets.back()), width}, normal(1)};
    layer.build(Shape{width});
  }
  void fields(auto&& f) {
    f("rows", rows);
    f("layer", layer);
  }
  template <class S>
  auto operator()(S& step) const {
    auto x = step.template variable<Shape{dynamic}>(step.ragged(long(offsets.size()) - 1, offsets.data()), Shape{width},
                                                    step.needs_gradient(rows));
    std::copy_n(step.value(rows), x.size(), x.value());
    if (x.needs_gradient())
      step.record({x.node}, [=, p = rows](S& s) { s.backend.copy(x.size(), s.gradient(x), s.target(p)); });
    return layer.forward(step, x);
  }
};
template <class Layer>
void check_sequences(Layer layer, int width, std::vector<long> offsets, Mode mode = Mode::training) {
  const auto report = gradient_check<Shape{1}>(OnRows<Layer>{layer, width, offsets},
                                               [](auto& step, const auto& m, auto) { return m(step); }, {.mode = mode});
  INFO(type_name<Layer>(), " of width ", width, ": ", report.summary());
  CHECK(report.passed());
}

/// A row changes no bit of the rows before it, nor of other sequences; and one row at a time gives the bits of all at
/// once.
template <class Layer>
void check_causal(Layer layer, int width, int threads) {
  constexpr int count = 3, length = 21;
  using Chain = Sequential<Shape{dynamic}, Layer>;
  const Weights<Chain, Cpu> weights(Chain{width, layer}, 3);
  const Layer& built = weights.model.layers.layer;
  Cpu cpu(threads);
  Step<Cpu> step(cpu);
  const auto outputs = [&](const Floats& rows) {
    step.begin(weights.buffers(), Mode::evaluation, 0, 1, Stream::noise);
    const auto y =
        weights.model(step, step.constant<Shape{dynamic}>(sequences(step, count, length), Shape{width}, rows.data()));
    return Floats(y.value(), y.value() + y.size());
  };
  const Floats rows = normals(count * length * width, 2), all = outputs(rows);
  for (int changed = length; changed < 2 * length; ++changed) {
    Floats other = rows;
    for (int d = 0; d < width; ++d) other[changed * width + d] += 10 * float(d + 1);
    const Floats after = outputs(other);
    const auto same = [&](int first, int last) {
      return std::memcmp(&all[first * width], &after[first * width], (last - first) * width * sizeof(float)) == 0;
    };
    CHECK(same(0, changed));
    for (int row = changed; row < 2 * length; ++row) CHECK(!same(row, row + 1));
    CHECK(same(2 * length, 3 * length));
  }

  step.begin(weights.buffers(), Mode::evaluation, 0, 1, Stream::noise);
  const CausalSelfAttention<dynamic>* attention = nullptr;
  if constexpr (requires { built.attention; })
    attention = &built.attention;
  else
    attention = &built;
  const auto memory = attention->memory(step, count, length);
  for (int t = 0; t < length; ++t) {
    Floats now(count * width);
    for (int g = 0; g < count; ++g) std::copy_n(&rows[(g * length + t) * width], width, &now[g * width]);
    const auto y =
        built.next(step, step.constant<Shape{dynamic}>(step.rows(count), Shape{width}, now.data()), memory, t);
    for (int g = 0; g < count; ++g)
      CHECK(std::memcmp(y.value() + g * width, &all[(g * length + t) * width], width * sizeof(float)) == 0);
  }
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

TEST_CASE("CausalSelfAttention") {
  using Layer = CausalSelfAttention<dynamic>;
  check_sequences(Layer{.width = 6, .heads = 2}, 5, {0, 3, 3, 4, 10});
  check_sequences(Layer{.width = 3, .heads = 1}, 3, {0, 1});
  check_sequences(Layer{.width = 4, .heads = 4}, 2, {0, 0});
  check_sequences(Layer{.width = 38, .heads = 2}, 7, {0, 70, 87});  // more than the vectors of any processor hold
  check_causal(Layer{.width = 6, .heads = 3}, 6, 1);
  check_causal(Layer{.width = 40, .heads = 2}, 40, 4);

  Cpu cpu(1);
  Step<Cpu> step(cpu);
  const Weights<Sequential<Shape{4}, CausalSelfAttention<4>>, Cpu> weights;
  step.begin(weights.buffers(), Mode::evaluation, 0, 1, Stream::noise);
  const Floats rows(8);
  CHECK_THROWS_WITH_AS(weights.model(step, step.constant<Shape{4}>(step.rows(2), 4, rows.data())),
                       "vaelib: causal attention takes ragged rows, one set a sequence; found 2 plain rows", Error);
  for (const int heads : {0, -1, 3})
    CHECK_THROWS_AS((Weights<Sequential<Shape{4}, CausalSelfAttention<4>>, Cpu>(
                        Sequential<Shape{4}, CausalSelfAttention<4>>{CausalSelfAttention<4>{.heads = heads}})),
                    Error);
}

TEST_CASE("TransformerBlock") {
  using Layer = TransformerBlock<dynamic>;
  check_sequences(Layer{.width = 6, .heads = 2, .hidden = 9}, 6, {0, 3, 3, 4, 10});
  check_sequences(Layer{.width = 6, .heads = 2, .hidden = 24, .dropout = {0.3f}}, 6, {0, 3, 20});
  check_sequences(Layer{.width = 6, .heads = 2, .hidden = 24, .dropout = {0.3f}}, 6, {0, 3, 20}, Mode::evaluation);
  check_causal(Layer{.width = 24, .heads = 3, .hidden = 10}, 24, 2);
}

TEST_CASE("an embedding of a grid of codes") {
  const auto report = gradient_check<Shape{1}>(Embedding<5, 3>{},
                                               [](auto& step, const auto& table, auto x) {
                                                 return table(step, x.space(), Shape{2, 3, 1}, codes);
                                               },
                                               {.rows = 2});
  INFO(report.summary());
  CHECK(report.passed());
}

TEST_CASE("WordDropout: a share of the tokens, in training only, the same for a step and a row") {
  static constexpr int all = 500, length = 20, unknown = 9, start = 8;
  const WordDropout drop{0.3f, unknown, start};
  std::vector<std::int32_t> tokens(all * length);
  for (int i = 0; i < all * length; ++i) tokens[std::size_t(i)] = i % length == 0 ? start : i % 7;
  Cpu cpu(1);
  Step<Cpu> step(cpu);
  const auto dropped = [&](Mode mode, std::uint64_t number, int first = 0, int last = 500) {
    step.begin({}, mode, 5, number, Stream::noise);
    const auto* result = drop(step, step.rows(last - first, first), tokens.data() + first * length, length);
    return std::vector<std::int32_t>(result, result + (last - first) * length);
  };
  const auto once = dropped(Mode::training, 1);
  int hidden = 0, wrong = 0;
  for (std::size_t i = 0; i < once.size(); ++i) {
    hidden += once[i] == unknown;
    wrong += once[i] != tokens[i] && once[i] != unknown;
    wrong += tokens[i] == start && once[i] != start;
  }
  CHECK(wrong == 0);
  CHECK(std::abs(hidden / double(all * (length - 1)) - 0.3) < 5 * std::sqrt(0.3 * 0.7 / (all * (length - 1))));
  CHECK(dropped(Mode::training, 1) == once);
  CHECK(dropped(Mode::training, 2) != once);
  CHECK(dropped(Mode::training, 1, 200, 300) == std::vector<std::int32_t>(once.begin() + 200 * length, once.begin() + 300 * length));
  CHECK(dropped(Mode::evaluation, 1) == tokens);
  CHECK_THROWS_WITH_AS((WordDropout{1.5f, 0}.build()), "vaelib: WordDropout wants a probability in [0, 1], found 1.5", Error);
  CHECK_THROWS_AS((WordDropout{0.5f, -1}.build()), Error);
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
  for (const float shift : {-1e4f, 0.0f, 1e4f})
    CHECK(loss({shift + 1, shift, shift + 1, shift - 2, shift}, 3) ==
          doctest::Approx(std::log(2 * std::exp(3.0) + 2 * std::exp(2.0) + 1)));
  CHECK(loss({-1e30f, 0, 1e30f}, 2) == 0);
  CHECK(loss(Floats(100, -500), 99) == doctest::Approx(std::log(100.0)));
  CHECK(std::isnan(loss({0, NAN, 0}, 0)));
  const std::int32_t beyond = 3;
  step.begin(none.buffers(), Mode::evaluation, 0, 1, Stream::noise);
  const Floats logits(6);
  CHECK_THROWS_WITH_AS(
      categorical_nll(step, step.constant<image>(step.rows(1), Shape{1, 2, 3}, logits.data()), std::data({0, beyond})),
      "vaelib: row 0 has the code 3 at position 1, expected 0 to 2", Error);
}
