// Attention where one side has few rows a set, and what follows an attention in one pass: the same numbers as layer by
// layer, in another order of operations.
#include <vaelib/backend/cpu/cpu.hpp>
#include <vaelib/layers/set_attention.hpp>
#include <vaelib/train/gradient_check.hpp>
#include "layers/numbers.hpp"

using namespace vaelib;

namespace {

using layer_test::difference, layer_test::Floats, layer_test::normals;
constexpr Shape flat{dynamic};

/// Layers of two operands as a model.
template <class Layer>
struct OnRows {
  Layer layer{};
  void build() { layer.build(Shape{32}, Shape{32}); }
  void fields(auto&& f) { f("layer", layer); }
};

struct Result {
  Floats y, dx, dpoints, gradients;
};

/// The points of five sets, one of them empty, and `few` rows a set, which the row space knows of (`told`) or not.
template <class Layer>
Result run(const Layer& layer, int few, bool few_look, bool told, int threads = 1) {
  const std::vector<long> offsets{0, 150, 150, 151, 180, 244};
  const long groups = 5, width = 32;
  std::vector<long> regular;
  for (long g = 0; g <= groups; ++g) regular.push_back(g * few);
  Weights<OnRows<Layer>, Cpu> weights({layer}, 2);
  Cpu cpu(threads);
  Step<Cpu> step(cpu);
  auto b = weights.buffers();
  Buffer<float> gradients(weights.values.size());
  Buffer<bool> written(weights.parameters.size()), trained(weights.parameters.size());
  std::fill_n(trained.data(), trained.size(), true);
  std::fill_n(gradients.data(), gradients.size(), 0.0f);
  b.gradients = gradients.data(), b.written = written.data(), b.trained = trained.data();
  step.begin(b, Mode::training, 0, 1, Stream::noise);
  const auto variable = [&](const RowSpace* space, std::uint64_t seed) {
    auto v = step.variable<flat>(space, Shape{int(width)}, true);
    const Floats numbers = normals(v.size(), seed);
    std::copy(numbers.begin(), numbers.end(), v.value());
    return v;
  };
  const auto points = variable(step.ragged(groups, offsets.data()), 7);
  const auto rows = variable(step.ragged(groups, regular.data(), 0, told ? few : 0), 8);
  const auto y = few_look ? weights.model.layer(step, rows, points) : weights.model.layer(step, points, rows);
  const Floats g = normals(y.size(), 9);
  const auto upstream = step.constant<flat>(y.space(), y.shape, g.data());
  step.backward(mean_rows(step, sum_features(step, multiply(step, y, fixed(upstream)))), float(y.rows()));
  const auto numbers = [](const float* p, long n) { return Floats(p, p + n); };
  return {numbers(y.value(), y.size()), numbers(step.gradient(rows), rows.size()),
          numbers(step.gradient(points), points.size()), numbers(gradients.data(), long(gradients.size()))};
}

template <class Layer>
void check_same(const Layer& layer, int few, bool few_look) {
  const Result wanted = run(layer, few, few_look, false), found = run(layer, few, few_look, true);
  INFO(type_name<Layer>(), ", few ", few, few_look ? " look at points" : " are looked at");
  CHECK(found.y != wanted.y);  // another order of sums, so that this compares two ways
  CHECK(difference(found.y, wanted.y) < 2e-6);
  CHECK(difference(found.dx, wanted.dx) < 1e-5);
  // a single key has all of the weight, whatever the point: then its gradient is nothing but rounding
  CHECK(difference(found.dpoints, wanted.dpoints, 0.01) < 1e-5);
  CHECK(difference(found.gradients, wanted.gradients) < 1e-5);
  const Result again = run(layer, few, few_look, true, 3);
  CHECK(again.y == found.y);
  CHECK(again.dpoints == found.dpoints);
  CHECK(again.gradients == found.gradients);
}

/// MAB without what it does in one pass.
struct ByLayers {
  MAB<dynamic, dynamic, GELU> mab{};
  void build(Shape x, Shape y) { mab.build(x, y); }
  void fields(auto&& f) { mab.fields(f); }
  template <class S, class X>
  X operator()(S& step, X x, X y) const {
    const X a{mab.attention(step, x, y).node, x.shape}, h = mab.ln0.forward(step, add(step, x, a));
    const X u{mab.linear1.forward(step, h).node, Shape{mab.linear1.layer.out}};
    const X more{mab.linear2.forward(step, map(step, GELU{}, u)).node, x.shape};
    return mab.ln1.forward(step, add(step, h, more));
  }
};

}  // namespace

TEST_CASE("attention of a few: the same numbers as with products of all rows") {
  for (const int few : {1, 5, 8}) {
    check_same(MultiHeadAttention<dynamic, dynamic>{32, 4}, few, true);
    check_same(MultiHeadAttention<dynamic, dynamic>{32, 4}, few, false);
    check_same(MultiHeadAttention<dynamic, dynamic, Over::slots>{32, 4}, few, true);
  }
  const int before = simd_width();
  for (const int width : {4, 8})
    if (width < before) {
      set_simd_width(width);
      check_same(MultiHeadAttention<dynamic, dynamic>{32, 2}, 7, true);
      check_same(MultiHeadAttention<dynamic, dynamic>{32, 2}, 7, false);
      check_same(MultiHeadAttention<dynamic, dynamic, Over::slots>{32, 2}, 7, true);
    }
  set_simd_width(before);
}

TEST_CASE("attention of a few: an empty set gives the bias of the last product, a point of NaN stays in its set") {
  Weights<OnRows<MultiHeadAttention<dynamic, dynamic>>, Cpu> weights({{32, 4}}, 2);
  Cpu cpu(1);
  Step<Cpu> step(cpu);
  step.begin(weights.buffers(), Mode::evaluation, 0, 1, Stream::noise);
  const std::vector<long> offsets{0, 0, 3, 6}, regular{0, 2, 4, 6};
  Floats numbers = normals(6 * 32, 3);
  const auto rows = step.constant<flat>(step.ragged(3, regular.data(), 0, 2), Shape{32}, numbers.data());
  Floats points = numbers;
  points[4 * 32 + 1] = NAN;
  const auto y =
      weights.model.layer(step, rows, step.constant<flat>(step.ragged(3, offsets.data()), Shape{32}, points.data()));
  const float* bias = step.value(weights.model.layer.output.layer.bias);
  for (int j = 0; j < 2 * 32; ++j) REQUIRE(y.value()[j] == bias[j % 32]);
  for (int j = 2 * 32; j < 4 * 32; ++j) REQUIRE(std::isfinite(y.value()[j]));
  CHECK(std::isnan(y.value()[4 * 32]));
}

TEST_CASE("what follows an attention: the same numbers as layer by layer") {
  for (const int hidden : {16, 32, 128}) {
    MAB<dynamic, dynamic, GELU> mab{.width = 32, .heads = 2, .hidden = hidden};
    const Result wanted = run(ByLayers{mab}, 40, false, false), found = run(mab, 40, false, false);
    CHECK(difference(found.y, wanted.y) < 2e-6);
    CHECK(difference(found.dx, wanted.dx) < 1e-5);
    CHECK(difference(found.dpoints, wanted.dpoints) < 1e-5);
    CHECK(difference(found.gradients, wanted.gradients) < 1e-5);
    CHECK(run(mab, 40, false, false, 3).gradients == found.gradients);
  }
}
