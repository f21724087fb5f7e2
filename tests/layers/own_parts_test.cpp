// An own activation, layer, loss and model, as short as they are meant to be.
#include <doctest/doctest.h>
#include <vaelib/layers/linear.hpp>
#include <vaelib/models/batch.hpp>
#include <vaelib/optim/optimizers.hpp>
#include <vaelib/train/gradient_check.hpp>
#include <vaelib/train/learner.hpp>

using namespace vaelib;

namespace {

/// An own activation: one functor.
struct Swish {
  constexpr auto operator()(auto x) const { return x * sigmoid(x); }
};

/// Another one that is fused into the layer before it, for it gives its slope from its output.
struct Softsign {
  constexpr auto operator()(auto x) const { return x / (abs(x) + 1.0f); }
  constexpr auto slope_from_output(auto y) const { return square(decltype(y)(1.0f) - abs(y)); }
};

struct MultiplyAdd {
  constexpr auto operator()(auto x, auto factor, auto offset) const { return x * factor + offset; }
};

/// An own layer of operations that are there: y = x * factor + offset, channel by channel.
struct Affine {
  Parameter factor{}, offset{};

  static constexpr bool keeps_features = true;
  static constexpr Shape output(Shape in) { return in; }
  void build(Shape in) {
    factor = {{in.channels}, constant(1)};
    offset = {{in.channels}, constant(0)};
  }
  void fields(auto&& f) {
    f("factor", factor);
    f("offset", offset);
  }
  auto forward(auto& step, auto x) const { return map(step, MultiplyAdd{}, x, factor, offset); }
};

/// An own layer with an own operation and its backward pass: the features of each row in reverse.
struct Reverse {
  static constexpr bool accepts(Shape in) { return in.is_flat(); }
  static constexpr Shape output(Shape in) { return in; }

  template <class Step, class V>
  V forward(Step& step, V x) const {
    V y = step.template variable<V::static_shape>(x.space(), x.shape, step.needs_gradient(x));
    const long rows = x.rows(), last = x.features() - 1;
    for (long r = 0; r < rows; ++r)
      for (long j = 0; j <= last; ++j) y.value()[r * (last + 1) + j] = x.value()[r * (last + 1) + last - j];
    if (y.needs_gradient())
      step.record({y.node}, [=](Step& s) {
        const auto target = s.target(x);  // written first, added to afterwards
        for (long r = 0; target && r < rows; ++r)
          for (long j = 0; j <= last; ++j) {
            auto& place = target.data[r * (last + 1) + last - j];
            place = (target.add ? place : 0) + s.gradient(y)[r * (last + 1) + j];
          }
      });
    return y;
  }
};

/// An own likelihood: the Laplace distribution of scale 1, up to a constant.
struct AbsoluteError {
  constexpr auto operator()(auto mean, auto target) const { return abs(mean - target); }
};

/// An own model: an autoencoder without any bottleneck to speak of.
struct Autoencoder {
  Sequential<Shape{6}, Affine, Linear<5>, Softsign, Linear<3>, Swish> encoder{};
  Sequential<Shape{3}, Reverse, Linear<6>> decoder{};

  void build() {
    encoder.build();
    decoder.build();
  }
  void fields(auto&& f) {
    f("encoder", encoder);
    f("decoder", decoder);
  }
  auto loss(auto& step, const auto& batch) const {
    const auto x = input<Shape{6}>(step, batch);
    return mean_rows(step, map_reduce(step, AbsoluteError{}, decoder(step, encoder(step, x)), fixed(x)));
  }
};

static_assert(accepts<Reverse, Shape{5}> && !accepts<Reverse, Shape{2, 2, 1}>);
static_assert(Elementwise<Swish> && !SlopeFromOutput<Swish> && SlopeFromOutput<Softsign>);

template <class Real>
constexpr std::array<Real, 24> numbers = [] {
  std::array<Real, 24> x{};
  for (int i = 0; i < 24; ++i) x[i] = Real((i * 7 % 24) / 8.0 - 1);
  return x;
}();

}  // namespace

TEST_CASE("an own activation") {
  CHECK(check_layer<Shape{7}>(Swish{}).passed());
  CHECK(check_layer<Shape{7}>(Softsign{}).passed());
}

TEST_CASE("an own layer") {
  CHECK(check_layer<Shape{2, 3, 5}>(Affine{}).passed());
  CHECK(check_layer<Shape{7}>(Reverse{}).passed());
}

TEST_CASE("an own loss and model") {
  const auto loss = [](auto& step, const auto& model, auto x) {
    using Real = typename decltype(x)::Real;
    return model.loss(step, Batch<Real>{4, Shape{6}, numbers<Real>.data(), nullptr, 0, x.space()});
  };
  const auto report = gradient_check<Shape{1}>(Autoencoder{}, loss, {.rows = 4});
  INFO(report.summary());
  CHECK(report.passed());

  Learner<Autoencoder, Adam, Cpu> learner({}, {.learning_rate = 1e-2f}, Cpu(1), 1);
  const Batch<float> batch{4, Shape{6}, numbers<float>.data()};
  const double first = learner.learn(batch).objective;
  for (int i = 0; i < 200; ++i) learner.learn(batch);
  CHECK(learner.learn(batch).objective < 0.5 * first);
  CHECK(learner.weights.parameters[0].name == "encoder.0.factor");
  CHECK(learner.weights.parameters.back().name == "decoder.1.bias");
}
