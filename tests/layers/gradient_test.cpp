// Every layer against central differences in double, and in float against double. Shapes are dynamic here, so that many
// sizes share the code of one.
#include <doctest/doctest.h>
#include <vaelib/layers/attention.hpp>
#include <vaelib/layers/batch_norm.hpp>
#include <vaelib/layers/convolution.hpp>
#include <vaelib/layers/dropout.hpp>
#include <vaelib/layers/embedding.hpp>
#include <vaelib/layers/flatten.hpp>
#include <vaelib/layers/gated.hpp>
#include <vaelib/layers/group_norm.hpp>
#include <vaelib/layers/layer_norm.hpp>
#include <vaelib/layers/pooling.hpp>
#include <vaelib/layers/residual.hpp>
#include <vaelib/train/gradient_check.hpp>

using namespace vaelib;

namespace {

constexpr Shape flat{dynamic}, image{dynamic, dynamic, dynamic};

template <Shape In, class Layer>
void check(Layer layer, Shape shape, GradientCheckOptions options = {}) {
  const GradientReport report = check_layer<In>(layer, options, shape);
  INFO(type_name<Layer>(), " on ", options.rows, " rows of ", text_of(shape), ": ", report.summary());
  CHECK(report.passed());
}

/// An activation on few and many numbers, small and large.
template <class F>
void check_activation(F f) {
  check<flat>(f, 1, {.rows = 1});
  check<flat>(f, 19, {.rows = 7});
  check<flat>(f, 5, {.rows = 0});
  check<flat>(f, 33, {.rows = 3, .input_scale = 6});
}

/// Parameters as the rows of ragged variables, so that their gradients can be checked.
struct RaggedRows {
  Parameter queries{{7, 3}, normal(1)}, keys{{6, 3}, normal(1)}, values{{6, 5}, normal(1)};
  void fields(auto&& f) {
    f("queries", queries);
    f("keys", keys);
    f("values", values);
  }
};
struct Attending : RaggedRows {
  MultiHeadAttention<4, 2> layer{};
  void build() { layer.build(Shape{3}, Shape{5}); }
  void fields(auto&& f) {
    RaggedRows::fields(f);
    f("layer", layer);
  }
};
template <Shape S, class Step>
auto rows_of(Step& step, const Parameter& p, const RowSpace* space) {
  auto y = step.template variable<S>(space, S, step.needs_gradient(p));
  std::copy_n(step.value(p), y.size(), y.value());
  if (y.needs_gradient()) step.record({y.node}, [=](Step& s) { s.backend.copy(y.size(), s.gradient(y), s.target(p)); });
  return y;
}
constexpr std::int32_t labels[] = {2, 0, 2, 2, 3};  // none has label 1
constexpr long query_offsets[] = {0, 2, 2, 3, 7},
               key_offsets[] = {0, 3, 4, 4, 6};  // a set without queries, one without keys

}  // namespace

TEST_CASE("Linear") {
  for (const int in : {1, 7, 24})
    for (const int out : {1, 5, 19}) check<flat>(Linear<dynamic>{out}, in, {.rows = in == 7 ? 9 : 2});
  check<flat>(Linear<dynamic>{3}, 5, {.rows = 1});
  check<flat>(Linear<dynamic>{3}, 5, {.rows = 0});
  check<flat>(Linear<dynamic>{70}, 130, {.rows = 37});
}

TEST_CASE("Conv2d") {
  check<image>(Conv2d<dynamic, 1>{3}, {4, 4, 2});
  check<image>(Conv2d<dynamic, 2>{1}, {2, 2, 1}, {.rows = 1});
  check<image>(Conv2d<dynamic, 3, 1, 1>{5}, {5, 7, 3});
  check<image>(Conv2d<dynamic, 3, 1, 1>{5}, {5, 7, 3}, {.rows = 0});
  check<image>(Conv2d<dynamic, 3, 2, 1>{4}, {7, 5, 2});  // the last pixels of odd sizes
  check<image>(Conv2d<dynamic, 4, 2, 1>{9}, {8, 6, 1}, {.rows = 3});
  check<image>(Conv2d<dynamic, 5, 3, 2>{2}, {11, 8, 3}, {.rows = 1});
  check<image>(Conv2d<dynamic, 2, 3>{17}, {8, 7, 2}, {.rows = 2});  // pixels between the kernels are not seen at all
  check<image>(Conv2d<dynamic, 4, 2, 1>{20}, {10, 10, 9}, {.rows = 5});
}

TEST_CASE("ConvTranspose2d") {
  check<image>(ConvTranspose2d<dynamic, 1>{3}, {4, 4, 2});
  check<image>(ConvTranspose2d<dynamic, 3, 1, 1>{1}, {5, 3, 4}, {.rows = 1});
  check<image>(ConvTranspose2d<dynamic, 3, 1, 1>{1}, {5, 3, 4}, {.rows = 0});
  check<image>(ConvTranspose2d<dynamic, 4, 2, 1>{5}, {4, 3, 3});
  check<image>(ConvTranspose2d<dynamic, 3, 2, 1, 1>{2}, {3, 4, 5}, {.rows = 3});
  check<image>(ConvTranspose2d<dynamic, 5, 3, 2, 2>{3}, {3, 2, 2}, {.rows = 2});
  check<image>(ConvTranspose2d<dynamic, 2, 3, 0, 1>{2}, {2, 3, 1},
               {.rows = 2});  // pixels that nothing reaches but the bias
  check<image>(ConvTranspose2d<dynamic, 4, 2, 1>{9}, {5, 5, 20}, {.rows = 5});
}

TEST_CASE("activations") {
  check_activation(ReLU{});
  check_activation(LeakyReLU{.slope = 0.2f});
  check_activation(ELU{});
  check_activation(ELU{.alpha = 0.3f});
  check_activation(GELU{});
  check_activation(SiLU{});
  check_activation(Tanh{});
  check_activation(Sigmoid{});
  check_activation(Softplus{});
}

TEST_CASE("an activation in the last pass of the layer before it") {
  const auto chain = [](auto f, Shape shape, auto layer, auto In) {
    using Chain = Sequential<decltype(In)::value, decltype(layer), decltype(f)>;
    const auto report = gradient_check<decltype(In)::value>(
        Chain{shape, layer, f}, [](auto& step, const auto& m, auto x) { return m(step, x); }, {}, shape);
    INFO(type_name<Chain>(), ": ", report.summary());
    CHECK(report.passed());
  };
  const auto flats = std::integral_constant<Shape, flat>{};
  const auto images = std::integral_constant<Shape, image>{};
  chain(ReLU{}, 7, Linear<dynamic>{5}, flats);
  chain(LeakyReLU{}, 7, Linear<dynamic>{5}, flats);
  chain(ELU{.alpha = 0.3f}, 7, Linear<dynamic>{5}, flats);
  chain(Tanh{}, 7, Linear<dynamic>{5}, flats);
  chain(Sigmoid{}, 7, Linear<dynamic>{5}, flats);
  chain(Softplus{}, 7, Linear<dynamic>{5}, flats);
  chain(Tanh{}, {5, 4, 3}, Conv2d<dynamic, 3, 2, 1>{5}, images);
  chain(Sigmoid{}, {3, 4, 3}, ConvTranspose2d<dynamic, 3, 2, 1, 1>{5}, images);
}

TEST_CASE("BatchNorm") {
  check<flat>(BatchNorm{}, 1, {.rows = 2});
  check<flat>(BatchNorm{}, 7, {.rows = 5});
  check<flat>(BatchNorm{}, 37, {.rows = 129});
  check<image>(BatchNorm{}, {3, 5, 2}, {.rows = 1});
  check<image>(BatchNorm{}, {3, 5, 19}, {.rows = 4});
  for (const long rows : {0, 1, 5}) {
    check<flat>(BatchNorm{}, 7, {.rows = rows, .mode = Mode::evaluation});
    check<image>(BatchNorm{}, {3, 5, 2}, {.rows = rows, .mode = Mode::evaluation});
  }
}

TEST_CASE("LayerNorm") {
  check<flat>(LayerNorm{}, 2, {.rows = 1});
  check<flat>(LayerNorm{}, 7, {.rows = 5});
  check<flat>(LayerNorm{}, 7, {.rows = 0});
  check<image>(LayerNorm{}, {3, 5, 3}, {.rows = 3});
}

TEST_CASE("GroupNorm") {
  check<image>(GroupNorm<dynamic>{2}, {3, 5, 6}, {.rows = 3});
  check<image>(GroupNorm<dynamic>{1}, {3, 5, 7}, {.rows = 1});
  check<image>(GroupNorm<dynamic>{19}, {2, 3, 19}, {.rows = 4});  // each channel by itself
  check<image>(GroupNorm<dynamic>{2}, {3, 5, 6}, {.rows = 0});
  check<flat>(GroupNorm<dynamic>{3}, 15, {.rows = 5});
  check<image>(GroupNorm<4>{}, {1, 1, 20}, {.rows = 33, .mode = Mode::evaluation});
}

TEST_CASE("MaxPool2d") {
  check<image>(MaxPool2d<2>{}, {4, 6, 3});
  check<image>(MaxPool2d<2>{}, {5, 7, 19}, {.rows = 3});  // the last row and column are seen by no window
  check<image>(MaxPool2d<3, 2, 1>{}, {7, 6, 4}, {.rows = 2});
  check<image>(MaxPool2d<3, 1, 1>{}, {1, 5, 1}, {.rows = 1});
  check<image>(MaxPool2d<2, 3>{}, {8, 7, 5}, {.rows = 2});  // pixels between the windows
  check<image>(MaxPool2d<2>{}, {4, 6, 3}, {.rows = 0});
}

TEST_CASE("AvgPool2d") {
  check<image>(AvgPool2d<2>{}, {4, 6, 3});
  check<image>(AvgPool2d<2>{}, {5, 7, 19}, {.rows = 3});
  check<image>(AvgPool2d<3, 2, 1>{}, {7, 6, 4}, {.rows = 2});
  check<image>(AvgPool2d<3, 1, 1>{}, {1, 5, 1}, {.rows = 1});
  check<image>(AvgPool2d<5, 2, 2>{}, {6, 5, 5}, {.rows = 2});
  check<image>(AvgPool2d<2, 3>{}, {8, 7, 5}, {.rows = 2});
  check<image>(AvgPool2d<2>{}, {4, 6, 3}, {.rows = 0});
}

TEST_CASE("Upsample") {
  check<image>(Upsample<2>{}, {3, 5, 3});
  check<image>(Upsample<3>{}, {2, 1, 19}, {.rows = 3});
  check<image>(Upsample<1>{}, {2, 3, 5}, {.rows = 1});
  check<image>(Upsample<2>{}, {3, 5, 3}, {.rows = 0});
  check<image>(Upsample<2, Interpolation::bilinear>{}, {3, 5, 3});
  check<image>(Upsample<3, Interpolation::bilinear>{}, {2, 1, 19}, {.rows = 3});
  check<image>(Upsample<4, Interpolation::bilinear>{}, {3, 4, 1}, {.rows = 1});
  check<image>(Upsample<2, Interpolation::bilinear>{}, {3, 5, 3}, {.rows = 0});
}

TEST_CASE("Gated") {
  check<flat>(Gated{}, 2, {.rows = 1});
  check<flat>(Gated{}, 38, {.rows = 7, .input_scale = 6});
  check<flat>(Gated{}, 10, {.rows = 0});
  check<image>(Gated{}, {3, 2, 6}, {.rows = 3});
}

TEST_CASE("Dropout") {
  check<flat>(Dropout{}, 7);
  check<flat>(Dropout{.probability = 0.9f}, 33, {.rows = 3});
  check<flat>(Dropout{}, 7, {.rows = 0});
  check<flat>(Dropout{}, 7, {.mode = Mode::evaluation});
}

TEST_CASE("Flatten, Reshape, Residual") {
  check<image>(Flatten{}, {3, 2, 5});
  check<flat>(Reshape<image>{Shape{3, 2, 5}}, 30);
  check<flat>(Reshape<image>{Shape{3, 2, 5}}, 30, {.rows = 0});
  check<flat>(Residual<Linear<dynamic>, Tanh, Linear<dynamic>>{Linear<dynamic>{5}, Tanh{}, Linear<dynamic>{7}}, 7);
  check<image>(Residual<ReLU, Conv2d<3, 3, 1, 1>>{}, {4, 3, 3}, {.rows = 3});
}

TEST_CASE("Embedding") {
  for (const long rows : {0, 1, 5}) {
    const auto report = gradient_check<Shape{1}>(
        Embedding<4, 3>{}, [](auto& step, const auto& table, auto x) { return table(step, x.space(), labels); },
        {.rows = rows});
    INFO(report.summary());
    CHECK(report.passed());
  }
}

TEST_CASE("attention on ragged rows") {
  const auto report = gradient_check<Shape{1}>(RaggedRows{}, [](auto& step, const auto& m, auto) {
    const auto *from = step.ragged(4, query_offsets), *to = step.ragged(4, key_offsets);
    return attention(step, rows_of<Shape{3}>(step, m.queries, from), rows_of<Shape{3}>(step, m.keys, to),
                     rows_of<Shape{5}>(step, m.values, to));
  });
  INFO(report.summary());
  CHECK(report.passed());
}

TEST_CASE("MultiHeadAttention") {
  const auto report = gradient_check<Shape{1}>(Attending{}, [](auto& step, const auto& m, auto) {
    const auto *from = step.ragged(4, query_offsets), *to = step.ragged(4, key_offsets);
    return m.layer(step, rows_of<Shape{3}>(step, m.queries, from), rows_of<Shape{5}>(step, m.values, to));
  });
  INFO(report.summary());
  CHECK(report.passed());
}
