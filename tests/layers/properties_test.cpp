// What holds for layers beyond their gradients: rows that do not depend on each other, shapes that fit or are refused.
#include <doctest/doctest.h>
#include <vaelib/backend/cpu/cpu.hpp>
#include <vaelib/layers/attention.hpp>
#include <vaelib/layers/batch_norm.hpp>
#include <vaelib/layers/convolution.hpp>
#include <vaelib/layers/dropout.hpp>
#include <vaelib/layers/flatten.hpp>
#include <vaelib/layers/gated.hpp>
#include <vaelib/layers/group_norm.hpp>
#include <vaelib/layers/layer_norm.hpp>
#include <vaelib/layers/pooling.hpp>
#include <vaelib/layers/residual.hpp>
#include <vaelib/train/weights.hpp>

using namespace vaelib;

namespace {

constexpr Shape flat{dynamic}, image{dynamic, dynamic, dynamic};
using Floats = std::vector<float>;

Floats normals(long count, std::uint64_t seed) {
  Floats numbers(count);
  normal(RandomKey{.seed = seed}, 0, 1, int(count), numbers.data());
  return numbers;
}

/// What a chain makes of rows [first, last) of the input.
template <class Chain>
Floats outputs(const Weights<Chain, Cpu>& weights, Mode mode, const Floats& input, long first, long last,
               int threads = 1) {
  Cpu cpu(threads);
  Step<Cpu> step(cpu);
  step.begin(weights.buffers(), mode, 3, 1, Stream::noise);
  step.recording = false;
  const Shape shape = weights.model.input_shape;
  const auto x =
      step.constant<Chain::takes>(step.rows(last - first, first), shape, input.data() + first * shape.size());
  const auto y = weights.model(step, x);
  return {y.value(), y.value() + y.size()};
}

/// The bits of each row are those that it has alone, and in any part of the batch.
template <Shape In, class... Layers>
void check_rows(Shape shape, Mode mode, Layers... layers) {
  const Weights<Sequential<In, Layers...>, Cpu> weights(Sequential<In, Layers...>{shape, layers...}, 5);
  const Floats input = normals(13 * shape.size(), 1), whole = outputs(weights, mode, input, 0, 13);
  Floats parts;
  for (const auto& [first, last] : {std::pair{0, 1}, {1, 6}, {6, 6}, {6, 13}}) {
    const Floats part = outputs(weights, mode, input, first, last);
    parts.insert(parts.end(), part.begin(), part.end());
  }
  INFO(type_name<Sequential<In, Layers...>>(), " of ", text_of(shape));
  CHECK(whole.size() == 13 * std::size_t(weights.model.output_shape.size()));
  CHECK(whole == parts);
  CHECK(whole == outputs(weights, mode, input, 0, 13, 3));
}

/// Attention of sets whose rows lie one after another.
struct Sets {
  std::vector<long> from, to;  // offsets of queries and keys
  Floats queries, keys, values;

  Floats attend() const {
    Cpu cpu(1);
    Step<Cpu> step(cpu);
    step.begin({}, Mode::evaluation, 0, 0, Stream::noise);
    const long groups = long(from.size()) - 1;
    const auto *queries_of = step.ragged(groups, from.data()), *keys_of = step.ragged(groups, to.data());
    const auto y =
        attention(step, step.constant<Shape{3}>(queries_of, 3, queries.data()),
                  step.constant<Shape{3}>(keys_of, 3, keys.data()), step.constant<Shape{5}>(keys_of, 5, values.data()));
    return {y.value(), y.value() + y.size()};
  }
  Sets only(std::size_t set) const {
    const auto rows = [](const Floats& all, long first, long last, int width) {
      return Floats(all.begin() + first * width, all.begin() + last * width);
    };
    return {{0, from[set + 1] - from[set]},
            {0, to[set + 1] - to[set]},
            rows(queries, from[set], from[set + 1], 3),
            rows(keys, to[set], to[set + 1], 3),
            rows(values, to[set], to[set + 1], 5)};
  }
};
Sets some_sets() {
  return {{0, 2, 2, 3, 7}, {0, 3, 4, 4, 40}, normals(7 * 3, 1), normals(40 * 3, 2), normals(40 * 5, 3)};
}

template <class Chain>
std::string error_of(Chain chain) {
  try {
    Weights<Chain, Cpu> weights(chain);
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

// ---- what the compiler knows of shapes

static_assert(accepts<Linear<4>, Shape{5}> && accepts<Linear<4>, Shape{dynamic}> &&
              !accepts<Linear<4>, Shape{2, 2, 3}>);
static_assert(accepts<Conv2d<4, 3>, Shape{3, 3, 1}> && !accepts<Conv2d<4, 3>, Shape{2, 3, 1}> &&
              accepts<Conv2d<4, 3, 1, 1>, Shape{2, 3, 1}>);
static_assert(output_of<Conv2d<4, 3, 2, 1>, Shape{7, 8, 5}> == Shape{4, 4, 4});
static_assert(output_of<Conv2d<4, 3, 2, 1>, Shape{dynamic, 8, 5}> == Shape{dynamic, 4, 4});
static_assert(output_of<ConvTranspose2d<4, 3, 2, 1, 1>, Shape{4, 5, 2}> == Shape{8, 10, 4});
static_assert(!accepts<ConvTranspose2d<4, 1, 1, 2>, Shape{4, 4, 1}>);
static_assert(output_of<Flatten, Shape{2, 3, 4}> == Shape{24} &&
              output_of<Flatten, Shape{2, dynamic, 4}> == Shape{dynamic});
static_assert(accepts<Reshape<Shape{2, 3, 4}>, Shape{24}> && !accepts<Reshape<Shape{2, 3, 4}>, Shape{23}> &&
              !accepts<Reshape<Shape{2, 3, 4}>, Shape{4, 3, 2}>);
static_assert(accepts<Residual<Linear<4>>, Shape{4}> && !accepts<Residual<Linear<4>>, Shape{5}> &&
              !accepts<Residual<Linear<4>>, Shape{2, 2, 1}>);
static_assert(accepts<BatchNorm, Shape{2, 3, 4}> && output_of<LayerNorm, Shape{2, 3, 4}> == Shape{2, 3, 4} &&
              output_of<ReLU, Shape{7}> == Shape{7});
static_assert(output_of<MaxPool2d<2>, Shape{5, 8, 3}> == Shape{2, 4, 3} && output_of<AvgPool2d<3, 2, 1>, Shape{7, dynamic, 3}> == Shape{4, dynamic, 3});
static_assert(accepts<MaxPool2d<3>, Shape{3, 3, 1}> && !accepts<MaxPool2d<3>, Shape{3, 2, 1}> && !accepts<AvgPool2d<2>, Shape{16}>);
static_assert(output_of<Upsample<3>, Shape{2, 4, 5}> == Shape{6, 12, 5} && output_of<Upsample<2>, Shape{dynamic, 4, 5}> == Shape{dynamic, 8, 5});
static_assert(accepts<GroupNorm<4>, Shape{3, 3, 8}> && !accepts<GroupNorm<4>, Shape{3, 3, 6}> && accepts<GroupNorm<dynamic>, Shape{3, 3, 7}> &&
              accepts<GroupNorm<4>, Shape{dynamic}>);
static_assert(accepts<Gated, Shape{8}> && !accepts<Gated, Shape{7}> && !accepts<Gated, Shape{4, 4, 3}> &&
              output_of<Gated, Shape{4, 4, 6}> == Shape{4, 4, 3} && output_of<Gated, Shape{dynamic}> == Shape{dynamic});
static_assert(Sequential<Shape{28, 28, 1}, Conv2d<32, 4, 2, 1>, ReLU, Flatten, Linear<256>>::makes == Shape{256});
static_assert(Sequential<Shape{28, 28, 1}>::makes == Shape{28, 28, 1});
static_assert(Elementwise<ReLU> && !Elementwise<Flatten> && SlopeFromOutput<Tanh> && !SlopeFromOutput<GELU>);

}  // namespace

TEST_CASE("a row does not depend on the other rows of its batch") {
  for (const auto& [in, out] : {std::pair{1, 1}, {7, 5}, {24, 19}, {300, 130}})
    check_rows<flat>(in, Mode::training, Linear<dynamic>{out});
  check_rows<image>({7, 5, 3}, Mode::training, Conv2d<dynamic, 3, 1, 1>{5});
  check_rows<image>({9, 8, 17}, Mode::training, Conv2d<dynamic, 3, 2, 1>{33});
  check_rows<image>({3, 5, 4}, Mode::training, ConvTranspose2d<dynamic, 4, 2, 1>{3});
  check_rows<image>({3, 5, 33}, Mode::training, ConvTranspose2d<dynamic, 3, 3, 1, 1>{17});
  check_rows<flat>(7, Mode::training, Linear<dynamic>{19}, GELU{}, LeakyReLU{}, SiLU{}, Tanh{}, Softplus{}, Sigmoid{});
  check_rows<image>({3, 2, 5}, Mode::training, LayerNorm{}, Flatten{}, Reshape<Shape{5, 3, 2}>{},
                    Residual<ReLU, Conv2d<2, 3, 1, 1>>{});
  check_rows<image>({5, 7, 6}, Mode::training, GroupNorm<dynamic>{3}, MaxPool2d<3, 2, 1>{}, Gated{}, Upsample<2>{});
  check_rows<image>({5, 7, 19}, Mode::training, AvgPool2d<2>{}, Upsample<2, Interpolation::bilinear>{}, GroupNorm<1>{});
  check_rows<flat>(19, Mode::training, Dropout{});  // a row's noise comes with its place in the global batch
  check_rows<image>({3, 2, 5}, Mode::evaluation, BatchNorm{}, Dropout{});
}

TEST_CASE("an activation fused into the layer before it gives the same bits") {
  const auto check = [](auto layer, auto activation, Shape shape) {
    using Layer = decltype(layer);
    constexpr Shape In = output_of<Layer, image>.is_flat() ? flat : image;
    using Plain = Sequential<In, Layer>;
    using Fused = Sequential<In, Layer, decltype(activation)>;
    static_assert(detail::Chain<0, Layer, decltype(activation)>::template fuses<Step<Cpu>, Var<float, In>>());
    const Floats x = normals(5 * shape.size(), 1);
    const Floats fused = outputs(Weights<Fused, Cpu>(Fused{shape, layer, activation}, 5), Mode::evaluation, x, 0, 5);
    Floats plain = outputs(Weights<Plain, Cpu>(Plain{shape, layer}, 5), Mode::evaluation, x, 0, 5), y(plain.size());
    Cpu(1).map(activation, 1, long(y.size()), y.data(), Given<float>{plain.data()});
    CHECK(fused == y);
  };
  check(Linear<dynamic>{19}, ReLU{}, 7);
  check(Linear<dynamic>{5}, Tanh{}, 1);
  check(Conv2d<dynamic, 3, 2, 1>{5}, ReLU{}, {7, 5, 3});
  check(Conv2d<dynamic, 3, 2, 1>{5}, Sigmoid{}, {7, 5, 3});
  check(ConvTranspose2d<dynamic, 3, 2, 1>{5}, LeakyReLU{}, {5, 4, 3});
}

TEST_CASE("attention") {
  const Sets sets = some_sets();
  const Floats all = sets.attend();

  SUBCASE("a set without keys gives zeros") {
    for (int d = 0; d < 5; ++d) CHECK(all[2 * 5 + d] == 0);
    CHECK(all[0] != 0);
  }
  SUBCASE("one key is its value, whatever the query") {
    Sets one{{0, 2}, {0, 1}, normals(6, 1), normals(3, 2), normals(5, 3)};
    const Floats y = one.attend();
    for (int d = 0; d < 10; ++d) CHECK(y[d] == one.values[d % 5]);
  }
  SUBCASE("a set does not depend on the other sets") {
    Floats parts;
    for (std::size_t set = 0; set < 4; ++set) {
      const Floats part = sets.only(set).attend();
      parts.insert(parts.end(), part.begin(), part.end());
    }
    CHECK(all == parts);
  }
  SUBCASE("the order of the keys does not matter") {
    Sets turned = sets;
    for (long j = 4; j < 40; ++j) {  // the last set, backwards
      std::copy_n(sets.keys.begin() + j * 3, 3, turned.keys.begin() + (43 - j) * 3);
      std::copy_n(sets.values.begin() + j * 5, 5, turned.values.begin() + (43 - j) * 5);
    }
    const Floats y = turned.attend();
    for (std::size_t i = 0; i < y.size(); ++i) CHECK(std::abs(y[i] - all[i]) < 1e-6);
  }
  SUBCASE("large scores stay finite") {
    Sets large = sets;
    for (float& q : large.queries) q *= 1e4f;
    for (const float y : large.attend()) CHECK(std::isfinite(y));
  }
}

TEST_CASE("dropout keeps the mean and drops the share it says") {
  using Chain = Sequential<flat, Dropout>;
  const Weights<Chain, Cpu> weights(Chain{Shape{1000}, Dropout{.probability = 0.3f}});
  const Floats ones(13 * 1000, 1.0f), y = outputs(weights, Mode::training, ones, 0, 13);
  long dropped = 0;
  for (const float v : y) {
    dropped += v == 0;
    CHECK((v == 0 || v == 1 / (1 - 0.3f)));
  }
  CHECK(std::abs(double(dropped) / 13000 - 0.3) < 4 * std::sqrt(0.3 * 0.7 / 13000));  // four standard errors
  CHECK(outputs(weights, Mode::evaluation, ones, 0, 13) == ones);
  CHECK(error_of(Chain{Shape{3}, Dropout{.probability = 1}}) ==
        "vaelib: Dropout wants a probability in [0, 1), found 1");
}

TEST_CASE("shapes that are known at run time only are checked in the words of the compiler") {
  using Chain = Sequential<flat, Linear<dynamic>, ReLU, Reshape<Shape{2, 3, dynamic}>>;
  CHECK(error_of(Chain{Shape{4}, Linear<dynamic>{12}, {}, {Shape{2, 3, 2}}}) == "no error");
  const std::string error = error_of(Chain{Shape{4}, Linear<dynamic>{13}, {}, {Shape{2, 3, 2}}});
  INFO(error);
  CHECK(error.starts_with("vaelib: layer 2, Reshape<"));
  CHECK(error.ends_with(">, does not accept shape 13"));
  CHECK(error_of(Sequential<image, Conv2d<4, 3>, Conv2d<4, 3>>{Shape{6, 4, 1}})
            .starts_with("vaelib: layer 1, Conv2d<4, 3"));
  CHECK(error_of(Sequential<image, Conv2d<4, 3>, Conv2d<4, 3>>{Shape{6, 4, 1}})
            .ends_with(", does not accept shape 4 x 2 x 4"));
  CHECK(error_of(Sequential<flat, Linear<dynamic>>{Shape{4}, {}}) ==
        "vaelib: layer 0, Linear<-1>, does not accept shape 4");  // no width was given
  CHECK(error_of(Sequential<flat, Linear<4>>{}) ==
        "vaelib: a Sequential with dynamic input needs its shape, found dynamic");
  CHECK(error_of(Sequential<Shape{6}, Linear<4>>{Shape{5}}) == "vaelib: a Sequential of shape 6 was given shape 5");
  CHECK(error_of(Sequential<flat, Residual<Linear<dynamic>>>{Shape{4}, Residual<Linear<dynamic>>{Linear<dynamic>{5}}})
            .ends_with("does not accept shape 4"));
}

TEST_CASE("GroupNorm and Gated say at run time what the compiler cannot know") {
  CHECK(error_of(Sequential<image, GroupNorm<dynamic>>{Shape{3, 3, 6}, GroupNorm<dynamic>{4}}) ==
        "vaelib: layer 0, GroupNorm<-1>, does not accept shape 3 x 3 x 6");
  CHECK(error_of(Sequential<image, GroupNorm<dynamic>>{Shape{3, 3, 6}, GroupNorm<dynamic>{0}}) ==
        "vaelib: layer 0, GroupNorm<-1>, does not accept shape 3 x 3 x 6");
  CHECK(error_of(Sequential<image, GroupNorm<dynamic>>{Shape{3, 3, 6}}) ==
        "vaelib: GroupNorm<dynamic> wants its number of groups: GroupNorm<dynamic>{8}");
  CHECK(error_of(Sequential<flat, Gated>{Shape{5}}) == "vaelib: layer 0, Gated, does not accept shape 5");
  CHECK(error_of(Sequential<image, MaxPool2d<3>>{Shape{2, 4, 1}}).ends_with(", does not accept shape 2 x 4 x 1"));
}

TEST_CASE("a pool passes on what is not a number") {
  Floats x(36, 1.0f);
  x[7] = NAN;  // in the first window only
  for (const auto& y : {outputs(Weights<Sequential<Shape{6, 6, 1}, MaxPool2d<3>>, Cpu>(), Mode::evaluation, x, 0, 1),
                        outputs(Weights<Sequential<Shape{6, 6, 1}, AvgPool2d<3>>, Cpu>(), Mode::evaluation, x, 0, 1)}) {
    CHECK(std::isnan(y[0]));
    for (int i = 1; i < 4; ++i) CHECK(y[i] == doctest::Approx(1));
  }
}

TEST_CASE("variables that have nothing to do with each other are not combined") {
  Cpu cpu(1);
  Step<Cpu> step(cpu);
  step.begin({}, Mode::evaluation, 0, 0, Stream::noise);
  const Floats zeros(100);
  const auto variable = [&](const RowSpace* space, Shape shape) {
    return step.constant<flat>(space, shape, zeros.data());
  };
  const RowSpace *samples = step.rows(4), *points = step.rows(4), *others = step.rows(5);
  CHECK_THROWS_WITH_AS(add(step, variable(samples, 3), variable(points, 3)),
                       "vaelib: variables of different row spaces cannot be combined (4 and 4 rows)", Error);
  CHECK_THROWS_WITH_AS(add(step, variable(samples, 3), variable(others, 3)),
                       "vaelib: variables of different row spaces cannot be combined (4 and 5 rows)", Error);
  CHECK_THROWS_WITH_AS(add(step, variable(samples, 3), variable(samples, 2)),
                       "vaelib: variables of shapes 3 and 2 cannot be combined", Error);
  CHECK_THROWS_WITH_AS(concatenate(step, variable(samples, 3), variable(points, 3)),
                       "vaelib: variables of different row spaces cannot be joined (4 and 4 rows)", Error);
  CHECK_THROWS_WITH_AS(columns<flat>(step, variable(samples, 3), 2, Shape{2}),
                       "vaelib: columns 2 to 3 of a variable of 3 features", Error);
  CHECK_THROWS_WITH_AS(view<flat>(variable(samples, 3), Shape{4}), "vaelib: 3 features cannot be seen as shape 4",
                       Error);
  CHECK_THROWS_WITH_AS(attention(step, variable(samples, 3), variable(points, 3), variable(points, 3)),
                       "vaelib: attention wants ragged rows of as many sets, found 0 and 0", Error);
  const long two[] = {0, 2, 4}, one[] = {0, 4};
  const RowSpace *pairs = step.ragged(2, two), *single = step.ragged(1, one);
  CHECK_THROWS_WITH_AS(attention(step, variable(pairs, 3), variable(single, 3), variable(single, 3)),
                       "vaelib: attention wants ragged rows of as many sets, found 2 and 1", Error);
  CHECK_THROWS_WITH_AS(attention(step, variable(pairs, 3), variable(pairs, 3), variable(single, 3)),
                       "vaelib: attention wants keys and values of one row space", Error);
  CHECK_THROWS_WITH_AS(attention(step, variable(pairs, 3), variable(pairs, 4), variable(pairs, 3)),
                       "vaelib: attention wants queries and keys of one shape, found 3 and 4", Error);
}

TEST_CASE("BatchNorm wants more than one value a channel in training") {
  const Weights<Sequential<flat, BatchNorm>, Cpu> weights(Sequential<flat, BatchNorm>{Shape{3}});
  const Floats x(13 * 3, 1.0f);
  CHECK_THROWS_WITH_AS(outputs(weights, Mode::training, x, 0, 1),
                       "vaelib: BatchNorm wants more than one value a channel in training, found 1", Error);
  for (const float v : outputs(weights, Mode::training, x, 0, 13)) CHECK(v == 0);  // no variance
  CHECK(outputs(weights, Mode::evaluation, x, 0, 1).size() == 3);
}
