// Numbers of PyTorch, made by tests/golden/make_golden.py: layers, and a VAE of all layers whose weights lie otherwise
// in files than in memory.
#include <doctest/doctest.h>

#include <cstdlib>
#include <map>
#include <vaelib/backend/oracle.hpp>
#include <vaelib/layers/attention.hpp>
#include <vaelib/layers/masked_convolution.hpp>
#include <vaelib/layers/transformer_block.hpp>
#include <vaelib/likelihoods/categorical.hpp>
#include <vaelib/vae.hpp>

using namespace vaelib;

namespace {

using Floats = std::vector<float>;

/// All tensors of a file by name.
struct Golden {
  std::string path;
  SafetensorsFile file{path};

  explicit Golden(const std::string& name) : path(text(VAELIB_TEST_FOLDER, "/golden/", name, ".safetensors")) {}
  Floats operator[](const std::string& name) const {
    const TensorInfo* info = file.find(name);
    REQUIRE_MESSAGE(info, name);
    Floats values(info->count());
    file.read(name, values);
    return values;
  }
  bool has(const std::string& name) const { return file.find(name); }
};

/// The largest difference, relative to the largest number that is wanted.
template <class Found>
double difference(const Found& found, const Floats& wanted) {
  REQUIRE(std::size(found) == wanted.size());
  double largest = 1e-30, result = 0;
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    largest = std::max(largest, std::abs(double(wanted[i])));
    const double d = std::abs(double(found[i]) - double(wanted[i]));
    result = d == d ? std::max(result, d) : INFINITY;
  }
  return result / largest;
}

/// A model, its gradients and a step that wants the gradients of everything.
template <class Model>
struct Run {
  Weights<Model, Cpu> weights;
  Buffer<float> gradients;
  Buffer<bool> written, trained;
  Cpu cpu{1};
  Step<Cpu> step{cpu};

  explicit Run(Model model, Mode mode = Mode::training)
      : weights(model),
        gradients(weights.values.size()),
        written(weights.parameters.size() + 1),
        trained(weights.parameters.size() + 1) {
    std::fill_n(trained.data(), trained.size(), true);
    auto b = weights.buffers();
    b.gradients = gradients.data();
    b.written = written.data();
    b.trained = trained.data();
    b.proposed = weights.proposed.data();
    b.proposals = weights.proposals.data();
    step.begin(b, Mode::training, 0, 1, Stream::noise);
    step.mode = mode;
  }
  auto variable(const RowSpace* space, Shape shape, const Floats& values) {
    auto x = step.template variable<Shape{dynamic, dynamic, dynamic}>(space, shape, true);
    REQUIRE(x.size() == long(values.size()));
    std::copy(values.begin(), values.end(), x.value());
    return x;
  }
  /// Backward from sum(y * g) / rows.
  template <class Y>
  void backward(Y y, const Floats& g) {
    REQUIRE(y.size() == long(g.size()));
    const auto upstream = step.template constant<Y::static_shape>(y.space(), y.shape, g.data());
    step.backward(mean_rows(step, map_reduce(step, Multiply{}, y, fixed(upstream))));
  }
  template <class V>
  Floats gradient(V v) const {
    return {step.gradient(v), step.gradient(v) + v.size()};
  }
};
template <class V>
Floats values(V v) {
  return {v.value(), v.value() + v.size()};
}

/// A parameter or state from the order of a file, and to it.
void from_file(const Parameter& p, const Floats& there, float* here) {
  detail::for_each_place(p, [&](long from, long to) { here[to] = there[from]; });
}
Floats to_file(const Parameter& p, const float* here) {
  Floats there(p.size());
  detail::for_each_place(p, [&](long to, long from) { there[to] = here[from]; });
  return there;
}
Floats to_file(const State& s, const float* here) {
  Floats there(s.size());
  for (long k = 0; k < s.size(); ++k) there[k] = here[detail::feature_here(s.order, s.size(), k)];
  return there;
}

constexpr double tolerance = 2e-6;

/// A layer with PyTorch's parameters makes PyTorch's numbers, forward and backward.
template <class Layer>
void check_layer(const Golden& golden, const std::string& name, Layer layer, Shape shape, Mode mode = Mode::training) {
  INFO(name);
  constexpr Shape any{dynamic, dynamic, dynamic}, flat{dynamic};
  constexpr Shape In = accepts<Layer, any> ? any : flat;
  using Chain = Sequential<In, Layer>;
  Run<Chain> run(Chain{shape, layer}, mode);
  auto& weights = run.weights;
  for (const auto& [full, p] : weights.parameters)  // "0.weight"
    from_file(p, golden[name + full.substr(1)], weights.values.data() + p.offset);
  for (const auto& [full, s] : weights.states) {
    const Floats wanted = golden[name + full.substr(1)];
    std::copy(wanted.begin(), wanted.end(), weights.state.data() + s.offset);
  }
  const Floats input_values = golden[name + ".x"];
  auto x = run.step.template variable<In>(run.step.rows(long(input_values.size()) / shape.size()), shape, true);
  std::copy(input_values.begin(), input_values.end(), x.value());
  const auto y = weights.model(run.step, x);
  CHECK(difference(values(y), golden[name + ".y"]) < tolerance);
  run.backward(y, golden[name + ".g"]);
  CHECK(difference(run.gradient(x), golden[name + ".dx"]) < tolerance);
  for (const auto& [full, p] : weights.parameters)
    CHECK(difference(to_file(p, run.gradients.data() + p.offset), golden[name + ".d" + full.substr(2)]) < tolerance);
  weights.commit();
  if (mode == Mode::evaluation) return;
  for (const auto& [full, s] : weights.states)
    CHECK(difference(to_file(s, weights.state.data() + s.offset), golden[name + ".after" + full.substr(1)]) <
          tolerance);
}

/// The latent with the noise of a file.
template <class Real>
struct GivenNoise : Gaussian<3> {
  const Real* noise = nullptr;
  template <class S, class V>
  V sample(S& step, const GaussianPosterior<V>& q) const {
    const auto given = step.template constant<sample_shape>(q.mu.space(), q.mu.shape, noise);
    return map(step, Reparameterise{{logvar_limit}}, q.mu, q.raw_logvar, fixed(given));
  }
};
constexpr Shape pixels{8, 6, 2};
using Encoder = Sequential<pixels, Conv2d<4, 4, 2, 1>, BatchNorm, ReLU, Flatten, Linear<12>, BatchNorm, ReLU>;
using Decoder = Sequential<Shape{3}, Linear<10>, ReLU, Linear<60>, BatchNorm, ReLU, Reshape<Shape{4, 3, 5}>,
                           ConvTranspose2d<3, 4, 2, 1>, BatchNorm, ReLU, ConvTranspose2d<2, 3, 1, 1>>;
template <class Real>
using Model = Vae<Encoder, GivenNoise<Real>, Decoder, Bernoulli>;

std::string bytes_of(const std::string& path) {
  std::string bytes;
  if (std::FILE* file = std::fopen(path.c_str(), "rb")) {
    for (int c; (c = std::fgetc(file)) != EOF;) bytes += char(c);
    std::fclose(file);
  }
  return bytes;
}

/// Ten steps of Adam have the losses of PyTorch.
template <class Real>
void check_losses(auto& learner, const Golden& run) {
  const Floats x = run["x"], noise = run["noise"], losses = run["losses"];
  const std::vector<Real> images(x.begin(), x.end()), numbers(noise.begin(), noise.end());
  for (int step = 0; step < 10; ++step) {
    learner.weights.model.latent.noise = numbers.data() + step * 16 * 3;
    const StepResult result = learner.learn({16, pixels, images.data()}, {.beta = 0.5f});
    const float* wanted = losses.data() + 3 * step;
    INFO("step ", step);
    CHECK(std::abs(result.objective / double(wanted[0]) - 1) < 1e-5);
    CHECK(std::abs(result.reconstruction / double(wanted[1]) - 1) < 1e-5);
    CHECK(std::abs(result.kl / double(wanted[2]) - 1) < 1e-5);
  }
}

struct TemporaryFile {
  char path[64] = "/tmp/vaelib-golden-XXXXXX";
  TemporaryFile() {
    const int descriptor = mkstemp(path);
    REQUIRE(descriptor >= 0);
    close(descriptor);
  }
  ~TemporaryFile() { std::remove(path); }
};

}  // namespace

TEST_CASE("layers") {
  const Golden golden("layers");
  check_layer(golden, "linear", Linear<dynamic>{5}, 7);
  check_layer(golden, "conv", Conv2d<dynamic, 3, 2, 1>{5}, {7, 6, 3});
  check_layer(golden, "transposed", ConvTranspose2d<dynamic, 3, 2, 1, 1>{5}, {4, 3, 3});
  check_layer(golden, "batch_norm", BatchNorm{}, {3, 2, 5});
  check_layer(golden, "batch_norm_flat", BatchNorm{}, 5);
  check_layer(golden, "batch_norm_evaluation", BatchNorm{}, {3, 2, 5}, Mode::evaluation);
  check_layer(golden, "layer_norm", LayerNorm{}, 7);
  check_layer(golden, "layer_norm_image", LayerNorm{}, {3, 2, 5});
  check_layer(golden, "group_norm", GroupNorm<dynamic>{3}, {4, 5, 6});
  check_layer(golden, "group_norm_flat", GroupNorm<dynamic>{2}, 8);
  check_layer(golden, "max_pool", MaxPool2d<2>{}, {7, 6, 5});
  check_layer(golden, "max_pool_overlapping", MaxPool2d<3, 2, 1>{}, {7, 6, 5});
  check_layer(golden, "max_pool_ties", MaxPool2d<3, 2, 1>{}, {7, 6, 4});
  check_layer(golden, "avg_pool", AvgPool2d<2>{}, {7, 6, 5});
  check_layer(golden, "avg_pool_overlapping", AvgPool2d<3, 2, 1>{}, {7, 6, 5});
  check_layer(golden, "upsample", Upsample<2>{}, {3, 4, 5});
  check_layer(golden, "upsample_bilinear", Upsample<3, Interpolation::bilinear>{}, {3, 4, 5});
  check_layer(golden, "glu", Gated{}, 12);
  check_layer(golden, "glu_image", Gated{}, {3, 2, 6});
  check_layer(golden, "elu", ELU{.alpha = 0.7f}, 11);
  check_layer(golden, "relu", ReLU{}, 11);
  check_layer(golden, "leaky_relu", LeakyReLU{}, 11);
  check_layer(golden, "gelu", GELU{}, 11);
  check_layer(golden, "silu", SiLU{}, 11);
  check_layer(golden, "tanh", Tanh{}, 11);
  check_layer(golden, "sigmoid", Sigmoid{}, 11);
  check_layer(golden, "softplus", Softplus{}, 11);
}

TEST_CASE("embedding, attention and likelihoods") {
  const Golden golden("layers");
  SUBCASE("embedding") {
    Run<Embedding<4, 3>> run({});
    const Floats table = golden["embedding.weight"];
    std::copy(table.begin(), table.end(), run.weights.values.begin());
    const std::int32_t labels[] = {2, 0, 2};
    const auto y = run.weights.model(run.step, run.step.rows(3), labels);
    CHECK(values(y) == golden["embedding.y"]);
    run.backward(y, golden["embedding.g"]);
    CHECK(difference(std::span(run.gradients.data(), 12), golden["embedding.dweight"]) < tolerance);
  }
  SUBCASE("attention") {
    Run<Sequential<Shape{1}>> run({});
    const long from[] = {0, 3, 5}, to[] = {0, 4, 9};
    const auto *queries = run.step.ragged(2, from), *keys = run.step.ragged(2, to);
    const auto q = run.variable(queries, 3, golden["attention.q"]), k = run.variable(keys, 3, golden["attention.k"]),
               v = run.variable(keys, 2, golden["attention.v"]);
    const auto y = attention(run.step, q, k, v);
    CHECK(difference(values(y), golden["attention.y"]) < tolerance);
    run.backward(y, golden["attention.g"]);
    CHECK(difference(run.gradient(q), golden["attention.dq"]) < tolerance);
    CHECK(difference(run.gradient(k), golden["attention.dk"]) < tolerance);
    CHECK(difference(run.gradient(v), golden["attention.dv"]) < tolerance);
  }
  SUBCASE("likelihoods") {
    const auto check = [&](const std::string& name, const auto& likelihood) {
      Run<Sequential<Shape{1}>> run({});
      const auto* rows = run.step.rows(3);
      const auto x = run.variable(rows, 7, golden[name + ".x"]),
                 target = run.variable(rows, 7, golden[name + ".target"]);
      const auto loss = mean_rows(run.step, likelihood.nll(run.step, x, target));
      CHECK(difference(values(loss), golden[name + ".loss"]) < tolerance);
      run.step.backward(loss);
      CHECK(difference(run.gradient(x), golden[name + ".dx"]) < tolerance);
      if (golden.has(name + ".mean"))
        CHECK(difference(values(likelihood.mean(run.step, x)), golden[name + ".mean"]) < tolerance);
    };
    check("bernoulli", Bernoulli{});
    check("continuous_bernoulli", ContinuousBernoulli{});
    check("laplace", Laplace{.scale = 0.3f});
    FixedGaussian gaussian;
    gaussian.sigma = 0.3f;
    check("gaussian", gaussian);
  }
}

TEST_CASE("layers that predict one code after another") {
  const Golden golden("sequences");
  check_layer(golden, "masked_a", MaskedConv2d<dynamic, 5, Mask2d::A>{5}, {7, 6, 3});
  check_layer(golden, "masked_b", MaskedConv2d<dynamic, 3, Mask2d::B>{5}, {7, 6, 4});
  {
    using Chain = Sequential<Shape{dynamic}, TransformerBlock<dynamic>>;
    Run<Chain> run(Chain{12, {.width = 12, .heads = 3, .hidden = 48}});
    for (const auto& [name, p] : run.weights.parameters)
      from_file(p, golden["block" + name.substr(1)], run.weights.values.data() + p.offset);
    const long offsets[] = {0, 4, 23};
    const auto x = view<Shape{dynamic}>(run.variable(run.step.ragged(2, offsets), 12, golden["block.x"]), 12);
    const auto y = run.weights.model(run.step, x);
    CHECK(difference(values(y), golden["block.y"]) < tolerance);
    run.backward(y, golden["block.g"]);
    CHECK(difference(run.gradient(x), golden["block.dx"]) < tolerance);
    for (const auto& entry : run.weights.parameters) {
      const std::string& name = entry.name;
      const Parameter& p = entry.leaf;
      if (name == "0.attention.key.bias") continue;  // it moves all weights of a query alike: the gradient is rounding
      INFO(name);
      CHECK(difference(to_file(p, run.gradients.data() + p.offset), golden["block.d" + name.substr(2)]) < tolerance);
    }
  }
  Run<Sequential<Shape{1}>> run({});
  const Floats floats = golden["categorical.codes"];
  const std::vector<std::int32_t> codes(floats.begin(), floats.end());
  const auto x = run.variable(run.step.rows(3), {2, 3, 7}, golden["categorical.x"]);
  const auto loss = mean_rows(run.step, categorical_nll(run.step, x, codes.data()));
  CHECK(difference(values(loss), golden["categorical.loss"]) < tolerance);
  run.step.backward(loss);
  CHECK(difference(run.gradient(x), golden["categorical.dx"]) < tolerance);
}

TEST_CASE("a VAE with PyTorch's first weights and noise") {
  const Golden initial("vae_initial"), run("vae_run");
  Learner<Model<float>, Adam, Cpu> learner({}, {.learning_rate = 1e-3f}, Cpu(2), 1);
  load(initial.path, learner.weights);
  const Floats x = run["x"];

  SUBCASE("outputs are the same in evaluation, and a file saved here has the bytes that PyTorch writes") {
    Session session(learner.weights);
    CHECK(difference(session.encode(x), run["mu"]) < 1e-5);
    CHECK(difference(session.reconstruct(x), run["reconstructed"]) < 1e-5);
    const TemporaryFile saved;
    save(saved.path, learner.weights);
    CHECK(bytes_of(saved.path) == bytes_of(initial.path));
  }
  SUBCASE("losses of ten steps are the same in double") {
    Learner<Model<double>, Adam, Oracle> exact({}, {.learning_rate = 1e-3f}, Oracle{}, 1);
    load(initial.path, exact.weights);
    check_losses<double>(exact, run);
  }
  SUBCASE("losses and weights of ten steps are the same") {
    check_losses<float>(learner, run);
    // Those whose gradients are well above rounding: of a bias in front of a BatchNorm there is no other, and Adam
    // makes whole steps of it.
    for (const auto& parameter : learner.weights.parameters) {
      const std::string& name = parameter.name;
      if (!name.starts_with("encoder.7.") && !name.starts_with("decoder.9.") && !name.starts_with("encoder.1."))
        continue;
      INFO(name);
      CHECK(difference(to_file(parameter.leaf, learner.weights.values.data() + parameter.leaf.offset),
                       run["trained." + name]) < 1e-4);
    }
    for (const auto& state : learner.weights.states) {
      const std::string& name = state.name;
      if (name.ends_with("running_mean")) continue;  // it has that bias in it
      INFO(name);
      CHECK(difference(to_file(state.leaf, learner.weights.state.data() + state.leaf.offset), run["trained." + name]) <
            1e-4);
    }
    if (const char* folder = std::getenv("VAELIB_GOLDEN_FOLDER")) {  // for make_golden.py to read
      save(text(folder, "/trained.safetensors"), learner.weights);
      const Floats y = Session(learner.weights).reconstruct(x);
      safetensors_write(text(folder, "/trained_outputs.safetensors"),
                        {SafetensorsView::of("reconstructed", {16, 8, 6, 2}, y)});
    }
  }
}
