// Spectral normalisation: PyTorch's numbers, gradients, that the norm is 1, and when its state moves.
#include <doctest/doctest.h>
#include <vaelib/io/safetensors.hpp>
#include <vaelib/io/weights_file.hpp>
#include <vaelib/layers/flatten.hpp>
#include <vaelib/layers/spectral_norm.hpp>
#include <vaelib/train/gradient_check.hpp>

#include "../io/faults.hpp"

using namespace vaelib;

namespace {

using Floats = std::vector<float>;
constexpr Shape image{dynamic, dynamic, dynamic};

/// Weights with gradients, and a step.
template <class Model>
struct Run {
  Weights<Model, Cpu> weights;
  Buffer<float> gradients{weights.values.size()};
  Buffer<bool> written{long(weights.parameters.size())}, trained{long(weights.parameters.size())};
  Cpu cpu{1};
  Step<Cpu> step{cpu};

  explicit Run(Model model, std::uint64_t seed = 1) : weights(model, seed) { std::fill_n(trained.data(), trained.size(), true); }
  void begin(Mode mode) {
    auto b = weights.buffers();
    b.gradients = gradients.data();
    b.written = written.data();
    b.trained = trained.data();
    b.proposed = weights.proposed.data();
    b.proposals = weights.proposals.data();
    step.begin(b, mode, 0, 1, Stream::noise);
  }
  Floats output(Mode mode, const Floats& input) {
    begin(mode);
    const Shape shape = weights.model.input_shape;
    const auto y = weights.model(step, step.template constant<Model::takes>(step.rows(long(input.size()) / shape.size()), shape, input.data()));
    return {y.value(), y.value() + y.size()};
  }
};

double difference(const Floats& found, const Floats& wanted) {
  REQUIRE(found.size() == wanted.size());
  double largest = 1e-30, worst = 0;
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    largest = std::max(largest, std::abs(double(wanted[i])));
    const double d = std::abs(double(found[i]) - double(wanted[i]));
    worst = d == d ? std::max(worst, d) : INFINITY;
  }
  return worst / largest;
}

/// tests/golden/make_spectral_norm.py
template <class Layer>
void check_golden(const std::string& name, Layer layer, Shape shape, Mode mode) {
  INFO(name);
  const SafetensorsFile file(VAELIB_TEST_FOLDER "/golden/spectral_norm.safetensors");
  const auto golden = [&](const std::string& tensor) {
    const TensorInfo* info = file.find(name + tensor);
    REQUIRE_MESSAGE(info, tensor);
    Floats values(info->count());
    file.read(name + tensor, values);
    return values;
  };
  constexpr Shape In = accepts<Layer, image> ? image : Shape{dynamic};
  Run<Sequential<In, Layer>> run(Sequential<In, Layer>{shape, layer});
  auto& w = run.weights;
  for (const auto& [full, p] : w.parameters) {
    const Floats there = golden(full.substr(1));
    const long offset = p.offset;
    detail::for_each_place(p, [&](long from, long to) { w.values[offset + to] = there[std::size_t(from)]; });
  }
  for (const auto& [full, s] : w.states) {
    const Floats there = golden(full.substr(1));
    for (long k = 0; k < s.count; ++k) w.state[s.offset + detail::feature_here(s.order, s.count, k)] = there[std::size_t(k)];
  }
  run.begin(Mode::training);
  run.step.mode = mode;
  const Floats input = golden(".x"), g = golden(".g");
  auto x = run.step.template variable<In>(run.step.rows(3), shape, true);
  std::copy(input.begin(), input.end(), x.value());
  const auto y = w.model(run.step, x);
  CHECK(difference({y.value(), y.value() + y.size()}, golden(".y")) < 2e-6);
  const auto upstream = run.step.template constant<decltype(y)::static_shape>(y.space(), y.shape, g.data());
  run.step.backward(mean_rows(run.step, map_reduce(run.step, Multiply{}, y, fixed(upstream))));
  CHECK(difference({run.step.gradient(x), run.step.gradient(x) + x.size()}, golden(".dx")) < 2e-6);
  for (const auto& [full, p] : w.parameters) {
    Floats there(std::size_t(p.size()));
    const float* here = run.gradients.data() + p.offset;
    detail::for_each_place(p, [&](long to, long from) { there[std::size_t(to)] = here[from]; });
    CHECK(difference(there, golden(".d" + full.substr(2))) < 5e-6);  // a difference of two sums, in float here and there
  }
  w.commit();
  for (const auto& [full, s] : w.states) {
    Floats there(std::size_t(s.count));
    for (long k = 0; k < s.count; ++k) there[std::size_t(k)] = w.state[s.offset + detail::feature_here(s.order, s.count, k)];
    CHECK(difference(there, golden((mode == Mode::training ? ".after" : "") + full.substr(1))) < 2e-6);
  }
}

/// With u and v of any numbers, so that sigma is linear in W.
template <class Layer, Shape In>
struct Begun {
  SpectralNorm<Layer> layer{};
  Shape shape{1};
  void build() {
    layer.build(shape);
    layer.u.initial = normal(1);
  }
  void fields(auto&& f) { f("layer", layer); }
};
template <Shape In, class Layer>
void check_gradient(Layer layer, Shape shape) {
  const auto report = gradient_check<In>(Begun<Layer, In>{{layer}, shape}, [](auto& step, const auto& m, auto x) { return m.layer.forward(step, x, Tanh{}); },
                                         {.single = 4e-6, .mode = Mode::evaluation}, shape);
  INFO(type_name<Layer>(), ": ", report.summary());
  CHECK(report.passed());
}

/// The largest singular value of what a layer makes of the unit vectors.
double norm_of(const Floats& rows, long in) {
  const std::size_t n = std::size_t(in), out = rows.size() / n;
  std::vector<double> v(n, 1), u(out);
  double sigma = 0;
  for (int i = 0; i < 2000; ++i) {
    std::fill(u.begin(), u.end(), 0);
    for (std::size_t a = 0; a < n; ++a)
      for (std::size_t b = 0; b < out; ++b) u[b] += rows[a * out + b] * v[a];
    detail::normalise(long(out), u.data());
    for (std::size_t a = 0; a < n; ++a) {
      v[a] = 0;
      for (std::size_t b = 0; b < out; ++b) v[a] += rows[a * out + b] * u[b];
    }
    sigma = detail::normalise(in, v.data());
  }
  return sigma;
}

}  // namespace

TEST_CASE("SpectralNorm: PyTorch's numbers") {
  for (const auto& [name, mode] : {std::pair{"training", Mode::training}, {"evaluation", Mode::evaluation}}) {
    check_golden(text("linear_", name), SpectralNorm<Linear<dynamic>>{{5}}, 7, mode);
    check_golden(text("conv_", name), SpectralNorm<Conv2d<dynamic, 3, 2, 1>>{{4}}, {5, 4, 3}, mode);
  }
}

TEST_CASE("SpectralNorm: gradients") {
  check_gradient<Shape{dynamic}>(Linear<dynamic>{6}, 9);
  check_gradient<image>(Conv2d<dynamic, 3>{4}, {5, 4, 3});
}

TEST_CASE("SpectralNorm: the norm is 1, and one iteration a training step keeps it") {
  constexpr int in = 12, out = 20;
  Run<Sequential<Shape{dynamic}, SpectralNorm<Linear<dynamic>>>> run({Shape{in}, {{out}}});
  Floats units(in * in);
  for (int i = 0; i < in; ++i) units[std::size_t(i * in + i)] = 1;
  std::fill_n(run.weights.values.data() + run.weights.model.layers.layer.layer.bias.offset, out, 0.0f);
  const auto state = [&] { return Floats(run.weights.state.begin(), run.weights.state.end()); };

  const Floats first = state();
  CHECK(norm_of(run.output(Mode::evaluation, units), in) == doctest::Approx(1).epsilon(0.05));  // 15 iterations, which are not kept
  run.weights.commit();
  CHECK(state() == first);
  for (int step = 0; step < 300; ++step) {
    const Floats before = state(), y = run.output(Mode::training, units);
    run.weights.commit();
    CHECK(state() != before);
    if (step % 50 == 49) CHECK(norm_of(y, in) == doctest::Approx(1).epsilon(1e-4));
    run.weights.values[run.weights.model.layers.layer.layer.weight.offset + step % (in * out)] += 0.002f;  // it learns
  }
  const Floats last = state(), y = run.output(Mode::evaluation, units);
  run.weights.commit();
  CHECK(state() == last);
  CHECK(norm_of(y, in) == doctest::Approx(1).epsilon(1e-4));

  std::fill(run.weights.values.begin(), run.weights.values.end(), 0.0f);
  CHECK(run.output(Mode::training, units) == Floats(in * out));
}

TEST_CASE("SpectralNorm: where it is off it is the layer, and files have it in PyTorch's order") {
  using Chain = Sequential<Shape{2, 3, 4}, Flatten, SpectralNorm<Linear<5>>>;
  Run<Chain> off(Chain{Flatten{}, {.on = false}}, 2), on(Chain{}, 2);
  Run<Sequential<Shape{2, 3, 4}, Flatten, Linear<5>>> plain({}, 2);
  Floats input(2 * 24);
  normal(RandomKey{3}, 0, 2, 24, input.data());
  CHECK(off.output(Mode::training, input) == plain.output(Mode::training, input));
  CHECK(off.weights.states.empty());
  CHECK(on.output(Mode::training, input) != plain.output(Mode::training, input));
  on.weights.commit();

  const io_test::TemporaryFolder folder;
  save(folder / "spectral.safetensors", on.weights);
  const SafetensorsFile file(folder / "spectral.safetensors");
  Floats v(24);
  file.read("1.parametrizations.weight.0._v", v);
  const float* here = on.weights.state.data() + on.weights.model.layers.rest.layer.v.offset;
  for (int k = 0; k < 24; ++k) CHECK(v[std::size_t(k)] == here[k % 6 * 4 + k / 6]);  // channels first
  Run<Chain> again(Chain{}, 9);
  load(folder / "spectral.safetensors", again.weights);
  CHECK(again.output(Mode::evaluation, input) == on.output(Mode::evaluation, input));
  save(folder / "plain.safetensors", plain.weights);
  CHECK_THROWS_AS(load(folder / "plain.safetensors", again.weights), Error);
}
