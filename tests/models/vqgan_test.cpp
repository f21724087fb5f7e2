// VqGan: its losses and phases, the weight between them, and perceptual distances; PyTorch's numbers by
// tests/golden/make_vqgan.py.
#include <doctest/doctest.h>

#include <vaelib/io/feature_file.hpp>
#include <vaelib/io/weights_file.hpp>
#include <vaelib/layers/patch_discriminator.hpp>
#include <vaelib/models/feature_classifier.hpp>
#include <vaelib/models/vq_networks.hpp>
#include <vaelib/models/vqgan.hpp>
#include <vaelib/train/checkpoints.hpp>
#include <vaelib/train/gradient_check.hpp>
#include <vaelib/train/session.hpp>
#include <vaelib/train/trainer.hpp>

#include "../io/faults.hpp"

using namespace vaelib;
using io_test::TemporaryFolder;

namespace {

using Floats = std::vector<float>;
constexpr Shape pixels{16, 16, 3};
using Encoder = Sequential<pixels, Conv2d<6, 4, 2, 1>, ReLU, Conv2d<5, 4, 2, 1>>;
using Decoder = Sequential<Shape{4, 4, 5}, ConvTranspose2d<6, 4, 2, 1>, ReLU, ConvTranspose2d<3, 4, 2, 1>>;
using Discriminator = PatchDiscriminator<pixels, 4, 2>;
using Model = VqGan<Encoder, VectorQuantizer<12>, Decoder, Discriminator, Perceptual>;
using Lesson = Learner<Model, Sgd, Cpu>;

static_assert(PatchDiscriminator<Shape{64, 64, 3}>::makes == Shape{6, 6, 1});
static_assert(PatchDiscriminator<Shape{64, 64, 3}>::size == 12);
static_assert(PatchDiscriminator<Shape{256, 256, 3}>::makes == Shape{30, 30, 1});  // as Isola et al. have it

std::string golden_path(const std::string& name) { return text(VAELIB_TEST_FOLDER, "/golden/", name, ".safetensors"); }
Floats golden(const std::string& name) {
  static const SafetensorsFile file(golden_path("vqgan"));
  const TensorInfo* info = file.find(name);
  REQUIRE_MESSAGE(info, name);
  Floats values(info->count());
  file.read(name, values);
  return values;
}
double largest_difference(const float* found, const Floats& wanted) {
  double largest = 1e-30, result = 0;
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    largest = std::max(largest, std::abs(double(wanted[i])));
    const double d = std::abs(double(found[i]) - double(wanted[i]));
    result = d == d ? std::max(result, d) : INFINITY;
  }
  return result / largest;
}

/// Smooth images without end.
struct Images {
  std::int64_t size() const { return 40; }
  Shape shape() const { return pixels; }
  int classes() const { return 0; }
  void fill(std::uint64_t, std::span<const std::uint32_t> rows, float* out, std::int32_t*) const {
    for (const auto row : rows)
      for (int i = 0; i < pixels.size(); ++i)
        *out++ = 0.5f + 0.5f * std::sin(0.13f * float(row) + float(i / 48) * 0.3f * float(1 + row % 3) + float(i % 3) +
                                        float(i / 3 % 16) * 0.2f);
  }
};
const Floats images = [] {
  Floats x(8 * std::size_t(pixels.size()));
  constexpr std::uint32_t rows[] = {0, 1, 2, 3, 4, 5, 6, 7};
  Images{}.fill(0, rows, x.data(), nullptr);
  return x;
}();
const Batch<float> batch{8, pixels, images.data()};

const Perceptual& perceptual() {
  static const Perceptual loss(read_feature_network(golden_path("lpips")));
  return loss;
}
Model model(std::int64_t start = 0) {
  Model m;
  m.perceptual = perceptual();
  m.options.start = start;
  m.quantizer.options.commitment = 0.0f;
  m.quantizer.options.decay = 0.99f;
  m.quantizer.options.dead = never_replaced;
  return m;
}
Floats with_prefix(const Lesson& lesson, std::string_view prefix, const Buffer<float>& of) {
  Floats result;
  for (const auto& [name, p] : lesson.weights.parameters)
    if (name.starts_with(prefix)) result.insert(result.end(), of.data() + p.offset, of.data() + p.offset + p.size());
  return result;
}
Floats generator_gradients(const Lesson& lesson) {
  auto result = with_prefix(lesson, "encoder.", lesson.gradients);
  const auto rest = with_prefix(lesson, "decoder.", lesson.gradients);
  result.insert(result.end(), rest.begin(), rest.end());
  return result;
}
float state_of(const Lesson& lesson, const std::string& name) {
  for (const auto& [full, s] : lesson.weights.states)
    if (full == name) return lesson.weights.state[s.offset];
  FAIL("there is no " << name);
  return 0;
}
double norm_of(const Floats& x) { return detail::norm(long(x.size()), x.data()); }

struct Nothing {
  void fields(auto&&) {}
};
template <Shape In>
void check(const char* name, auto forward, Shape shape = In, GradientCheckOptions options = {}) {
  const auto report = gradient_check<In>(Nothing{}, forward, options, shape);
  INFO(name, ": ", report.summary());
  CHECK(report.passed());
}

}  // namespace

TEST_CASE("losses of generator and discriminator: values by hand, and gradients") {
  Cpu cpu(1);
  Step<Cpu> step(cpu);
  step.begin({}, Mode::training, 1, 1, Stream::noise);
  const float of_real[] = {0.5f, 2, -1, 0}, of_made[] = {-3, 0.25f, 1, -0.5f};
  const auto* space = step.rows(2);
  const auto real = step.constant<Shape{2}>(space, 2, of_real), made = step.constant<Shape{2}>(space, 2, of_made);
  CHECK(*discriminator_loss(step, Hinge{}, real, made).value() ==
        doctest::Approx(0.5 * (0.5 + 0 + 2 + 1) / 4 + 0.5 * (0 + 1.25 + 2 + 0.5) / 4));
  CHECK(*generator_loss(step, Hinge{}, made).value() == doctest::Approx((3 - 0.25 - 1 + 0.5) / 4));
  double charged = 0, fooled = 0;
  for (int i = 0; i < 4; ++i) {
    charged += 0.5 * (std::log1p(std::exp(double(-of_real[i]))) + std::log1p(std::exp(double(of_made[i])))) / 4;
    fooled += std::log1p(std::exp(double(-of_made[i]))) / 4;
  }
  CHECK(*discriminator_loss(step, Vanilla{}, real, made).value() == doctest::Approx(charged));
  CHECK(*generator_loss(step, Vanilla{}, made).value() == doctest::Approx(fooled));

  constexpr auto halves = [](auto adversary) {
    return [adversary](auto& s, const auto&, auto x) {
      return discriminator_loss(s, adversary, columns<Shape{3}>(s, x, 0), columns<Shape{3}>(s, x, 3));
    };
  };
  check<Shape{6}>("hinge discriminator", halves(Hinge{}));
  check<Shape{6}>("vanilla discriminator", halves(Vanilla{}));
  check<Shape{6}>("vanilla generator", [](auto& s, const auto&, auto x) { return generator_loss(s, Vanilla{}, x); });
  check<Shape{6}>("hinge generator", [](auto& s, const auto&, auto x) { return generator_loss(s, Hinge{}, x); });
}

TEST_CASE("the weight of the generator's loss is never anything but a number from 0 to 10000") {
  CHECK(adaptive_weight(2, 4) == doctest::Approx(0.5));
  CHECK(adaptive_weight(0, 0) == 0);
  CHECK(adaptive_weight(1, 0) == 1e4);
  CHECK(adaptive_weight(NAN, 1) == 0);
  CHECK(adaptive_weight(1, NAN) == 0);
  CHECK(adaptive_weight(INFINITY, 1) == 0);
  CHECK(adaptive_weight(1, INFINITY) == 0);
}

TEST_CASE("a perceptual distance: gradient, PyTorch's numbers of a file in the format of lpips") {
  constexpr Shape any{dynamic, dynamic, dynamic};
  const auto& network = *perceptual().network;
  CHECK(network.layers.size() == 13);
  const auto distance = [&](auto& step, const auto&, auto y) {
    auto x = step.template variable<any>(y.space(), y.shape, false);
    for (long i = 0; i < x.size(); ++i) x.value()[i] = typename decltype(y)::Real(i * 7 % 13) / 13;
    return perceptual_distance(step, network, y, x);
  };
  // a step small enough that few ReLUs and pools turn over
  check<any>("colour", distance, {16, 16, 3},
             {.rows = 2, .epsilon = 1e-7, .absolute = 1e-6, .relative = 1e-4, .single = 2e-5});
  check<any>("grey", distance, {17, 18, 1},
             {.rows = 2, .epsilon = 1e-7, .absolute = 1e-6, .relative = 1e-4, .single = 2e-5});

  Cpu cpu(1);
  Step<Cpu> step(cpu);
  for (const int channels : {3, 1}) {
    const char* name = channels == 3 ? "colour" : "grey";
    INFO(name);
    const auto of = [&](const char* what) { return golden(text(name, '.', what)); };
    step.begin({}, Mode::training, 1, 1, Stream::noise);
    const Floats from = of("x"), to = of("y");
    const auto* space = step.rows(2);
    auto y = step.variable<any>(space, {16, 16, channels}, true);
    std::copy(to.begin(), to.end(), y.value());
    const auto d = perceptual()(step, y, step.constant<any>(space, y.shape, from.data()));
    CHECK(largest_difference(d.value(), of("distance")) < 1e-5);
    step.backward(d);
    CHECK(largest_difference(step.gradient(y), of("dy")) < 1e-5);
    const auto none = perceptual()(step, y, step.constant<any>(space, y.shape, to.data()));
    CHECK(*none.value() == 0);
  }
  CHECK_THROWS_WITH(network.check({8, 8, 3}), doctest::Contains("halves its images 4 times"));
  CHECK_THROWS_WITH(network.check({32, 32, 2}), doctest::Contains("takes 3"));
  CHECK_THROWS_WITH(Perceptual{}.check(pixels), doctest::Contains("no network"));
  CHECK_NOTHROW(Perceptual::none().check({8, 8, 3}));
}

TEST_CASE("the files of perceptual networks that are refused") {
  TemporaryFolder folder;
  const auto refused = [&](const char* what, auto change) {
    INFO(what);
    const Floats numbers(1024, 0.5f);
    std::vector<SafetensorsView> tensors{{"features.0.weight", Dtype::f32, {4, 3, 3, 3}, numbers.data()},
                                         {"features.0.bias", Dtype::f32, {4}, numbers.data()},
                                         {"features.3.weight", Dtype::f32, {8, 4, 3, 3}, numbers.data()},
                                         {"features.3.bias", Dtype::f32, {8}, numbers.data()},
                                         {"lin0.model.1.weight", Dtype::f32, {1, 4, 1, 1}, numbers.data()},
                                         {"lin1.model.1.weight", Dtype::f32, {1, 8, 1, 1}, numbers.data()}};
    change(tensors);
    const auto path = folder.path + "/network.safetensors";
    safetensors_write(path, tensors);
    if (!*what) {
      const auto network = read_feature_network(path);
      CHECK(network.layers[1].after_pool);
      CHECK(network.layers[0].importance.size() == 4);
      CHECK(network.shift[0] == -0.030f);
    } else {
      CHECK_THROWS_WITH_AS(read_feature_network(path), doctest::Contains(what), Error);
    }
  };
  refused("", [](auto&) {});
  const Floats sevens(8, 7.0f);
  safetensors_write(folder.path + "/lin.safetensors",
                    {{"lin0.model.1.weight", Dtype::f32, {1, 4, 1, 1}, sevens.data()},
                     {"lin1.model.1.weight", Dtype::f32, {1, 8, 1, 1}, sevens.data()}});
  const auto both = read_feature_network(folder.path + "/network.safetensors", folder.path + "/lin.safetensors");
  CHECK(both.layers[1].importance[7] == 7.0f);
  refused("expected 2 more", [](auto& t) { t[2].name = "features.4.weight", t[3].name = "features.4.bias"; });
  refused("takes 5 channels, the one before gives 4", [](auto& t) { t[2].shape = {8, 5, 3, 3}; });
  refused("expected the 3x3 convolutions", [](auto& t) { t[2].shape = {8, 4, 5, 5}; });
  refused("has no tensor \"features.3.bias\"", [](auto& t) { t[3].name = "features.3.scale"; });
  refused("stage 1 has 8 channels, expected as many weights, found 0", [](auto& t) { t.pop_back(); });
  refused("stage 1 has 8 channels, expected as many weights, found 7", [](auto& t) { t[5].shape = {7}; });
  refused("no convolutions", [](auto& t) { t.erase(t.begin(), t.begin() + 4); });
  refused("has the value nan", [](auto& t) {
    static const Floats bad(4, NAN);
    t[1].data = bad.data();
  });
}

TEST_CASE("one step of both phases has PyTorch's gradients") {
  Model m = model();
  m.options.pixel = 0.7f;
  m.options.perceptual = 0.5f;
  m.quantizer.options.commitment = 0.25f;
  m.quantizer.options.decay = 1.0f;
  Lesson lesson(m, Sgd{.learning_rate = 0}, Cpu(1), 1);
  load_part(golden_path("vqgan"), lesson.weights, {"encoder.", "quantizer.", "decoder.", "discriminator."});
  const Floats x = golden("x");
  const auto result = lesson.learn({3, pixels, x.data()});
  const auto numbers = Model::numbers_of(lesson.weights);
  CHECK(result.objective == doctest::Approx(double(golden("objective")[0])).epsilon(1e-5));
  CHECK(numbers.lambda == doctest::Approx(double(golden("lambda")[0])).epsilon(1e-5));
  CHECK(numbers.generator == doctest::Approx(double(golden("generator_loss")[0])).epsilon(1e-5));
  CHECK(numbers.discriminator == doctest::Approx(double(golden("discriminator_loss")[0])).epsilon(1e-5));
  for (const auto& entry : lesson.weights.parameters) {
    const std::string& name = entry.name;
    const Parameter& p = entry.leaf;
    if (name == "discriminator.2.bias" || name == "discriminator.5.bias")
      continue;  // in front of a norm: zero but for rounding
    INFO(name);
    Floats there(static_cast<std::size_t>(p.size()));
    detail::for_each_place(
        p, [&, at = p.offset](long to, long from) { there[std::size_t(to)] = lesson.gradients[at + from]; });
    CHECK(largest_difference(there.data(), golden("gradient." + name)) < 1e-5);
  }
}

TEST_CASE("the adaptive weight is the quotient of two norms, and the gradient the sum of two gradients") {
  struct Learned {
    Floats gradients;
    double norm, lambda;
  };
  const auto learned = [&](auto change) {
    Model m = model();
    change(m.options);
    Lesson lesson(m, Sgd{.learning_rate = 0}, Cpu(1), 3);
    lesson.learn(batch);
    return Learned{generator_gradients(lesson), norm_of(with_prefix(lesson, "decoder.2.weight", lesson.gradients)),
                   Model::numbers_of(lesson.weights).lambda};
  };
  const auto likeness = learned([](VqGanOptions& o) { o.adversarial = 0.0f; });
  const auto fooled =
      learned([](VqGanOptions& o) { o.pixel = o.perceptual = 0.0f, o.adversarial = 1.0f, o.adaptive = false; });
  const auto both = learned([](VqGanOptions& o) { o.adversarial = 0.5f; });
  Model without = model();
  without.perceptual = Perceptual::none();
  Lesson lesson(without, Sgd{.learning_rate = 0}, Cpu(1), 3);
  lesson.learn(batch);
  CHECK(Model::numbers_of(lesson.weights).perceptual == 0);
  CHECK(Model::numbers_of(lesson.weights).lambda > 0);
  const double lambda = likeness.norm / (fooled.norm + 1e-6);
  CHECK(both.lambda == doctest::Approx(lambda).epsilon(1e-5));
  CHECK(likeness.lambda == 0);
  CHECK(fooled.lambda == 1);
  Floats sum = likeness.gradients;
  for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += float(0.5 * lambda) * fooled.gradients[i];
  CHECK(largest_difference(both.gradients.data(), sum) < 1e-5);
}

TEST_CASE("gradient_of leaves the gradients of earlier parts of a batch alone") {
  const auto gradients = [&](std::int64_t part,
                             bool adaptive) {  // the same images twice: both parts have the same losses
    Floats twice(images);
    std::copy_n(images.begin(), images.size() / 2, twice.begin() + long(images.size() / 2));
    Model m = model();
    m.quantizer.options.start = CodebookStart::normal;  // and the codes stay, which the second part would see otherwise
    m.quantizer.options.decay = 1.0f;
    m.options.adaptive = adaptive;
    Lesson lesson(m, Sgd{.learning_rate = 0}, Cpu(1), 3);
    lesson.learn({8, pixels, twice.data()}, {.micro_batch = part});
    return generator_gradients(lesson);
  };
  for (const bool adaptive : {false, true})
    CHECK(largest_difference(gradients(4, adaptive).data(), gradients(0, adaptive)) < 1e-5);
}

TEST_CASE("phases: the discriminator waits, each learns alone, states move once") {
  Lesson lesson(model(2), Sgd{.learning_rate = 0.1f}, Cpu(1), 3);
  const auto discriminator = [&] { return with_prefix(lesson, "discriminator.", lesson.weights.values); };
  const auto generator = [&] { return with_prefix(lesson, "decoder.", lesson.weights.values); };
  const Floats before = discriminator(), decoder = generator();
  for (int k = 0; k < 2; ++k) lesson.learn(batch);
  CHECK(discriminator() == before);
  CHECK(generator() != decoder);
  CHECK(lesson.updates[0] == 2);
  CHECK(lesson.updates[1] == 0);  // so that Adam's bias correction begins with the discriminator
  CHECK(state_of(lesson, "discriminator.3.num_batches_tracked") == 0);
  CHECK(Model::numbers_of(lesson.weights).lambda == 0);
  CHECK(Model::numbers_of(lesson.weights).perceptual > 0);

  const Buffer<float> count_before = [&] {
    Buffer<float> n(12);
    std::copy_n(lesson.weights.state.data() + lesson.weights.model.quantizer.count.offset, 12, n.data());
    return n;
  }();
  lesson.learn(batch);
  CHECK(discriminator() != before);
  CHECK(lesson.updates[1] == 1);
  CHECK(state_of(lesson, "discriminator.3.num_batches_tracked") == 2);  // real and made
  const auto& q = lesson.weights.model.quantizer;
  for (int k = 0; k < 12; ++k) {
    const float now = lesson.weights.state[q.count.offset + k], chosen = lesson.weights.state[q.batch_count.offset + k];
    CHECK(now == doctest::Approx(0.99 * double(count_before[k]) + 0.01 * double(chosen)).epsilon(1e-5));
  }
  const auto numbers = Model::numbers_of(lesson.weights);
  CHECK(numbers.lambda > 0);
  CHECK(numbers.discriminator > 0);

  // the generator's step is the same whether or not the discriminator learns behind it, and the other way round it
  // stands still
  const auto frozen = [&](const char* prefix, bool one_of_many) {
    Lesson l(model(), Sgd{.learning_rate = 0.1f}, Cpu(1), 3);
    if (one_of_many) l.groups = {{.prefix = prefix, .rate = 0}};
    if (!one_of_many) l.groups = {{.prefix = "encoder.", .rate = 0}, {.prefix = "decoder.", .rate = 0}};
    const Floats first = with_prefix(l, "decoder.", l.weights.values),
                 judge = with_prefix(l, "discriminator.", l.weights.values);
    l.learn(batch);
    CHECK((with_prefix(l, "discriminator.", l.weights.values) != judge) ==
          (std::string_view(prefix) != "discriminator."));
    if (!one_of_many) CHECK(with_prefix(l, "decoder.", l.weights.values) == first);
    return with_prefix(l, "decoder.", l.weights.values);
  };
  CHECK(frozen("discriminator.", true) == frozen("nothing", true));
  frozen("encoder.", false);
}

TEST_CASE("evaluation is the reconstruction alone, and nothing of the perceptual network belongs to the model") {
  Lesson lesson(model(), Sgd{.learning_rate = 0.01f}, Cpu(1), 3);
  for (int k = 0; k < 3; ++k) lesson.learn(batch);
  const Floats state(lesson.weights.state.begin(), lesson.weights.state.end());
  const auto result = lesson.evaluate(batch, 1, 0, 0);
  CHECK(result.objective == result.reconstruction);
  CHECK(result.kl == 0);
  CHECK(std::equal(state.begin(), state.end(), lesson.weights.state.begin()));
  for (const auto& [name, p] : lesson.weights.parameters)
    CHECK((name.starts_with("encoder.") || name.starts_with("decoder.") || name.starts_with("discriminator.")));

  VqGanOptions options;
  options.start = 100;
  CHECK(warning_of_start(options, 10, 11).empty());
  CHECK(warning_of_start(options, 10, 10).find("starts at step 100, but 10 epochs are only 100 steps") !=
        std::string::npos);
  options.start = 0;
  options.start_epoch = 5;
  CHECK(warning_of_start(options, 10, 6).empty());
  CHECK(warning_of_start(options, 10, 5).find("starts after 5 epochs, but there are only 5") != std::string::npos);
}

TEST_CASE("VqDiscriminator: a PatchDiscriminator whose size is chosen at run time; files are those of the other") {
  using Typed = PatchDiscriminator<pixels, 4, 2>;
  const Weights<Typed, Cpu> typed(Typed{}, 3);
  const Weights<VqDiscriminator, Cpu> sized(VqDiscriminator{.width = 4, .layers = 2, .input_shape = pixels}, 3);
  REQUIRE(typed.parameters.size() == sized.parameters.size());
  for (std::size_t i = 0; i < typed.parameters.size(); ++i) CHECK(typed.parameters[i].name == sized.parameters[i].name);
  const auto logits = [](const auto& weights) {
    Session session(weights, Cpu(1));
    return session.run(8, pixels, images.data(), nullptr, 0,
                       [](auto& step, const auto& m, const auto& b) { return m(step, input<std::decay_t<decltype(m)>::takes>(step, b)); });
  };
  CHECK(logits(typed) == logits(sized));
  CHECK(sized.model.output_shape == Typed::makes);
  VqDiscriminator deep{.width = 4, .layers = 3, .input_shape = pixels};
  CHECK_THROWS_WITH_AS(deep.build(), doctest::Contains("halves images 3 times"), Error);
}

TEST_CASE("the same bits at 1, 2 and 4 threads and when resumed; it learns") {
  const auto bits = [](const auto& weights) {
    Floats result(weights.values.begin(), weights.values.end());
    result.insert(result.end(), weights.state.begin(), weights.state.end());
    return result;
  };
  struct Interrupted {};
  struct Failing : Images {
    int* left;
    void fill(std::uint64_t epoch, std::span<const std::uint32_t> rows, float* out, std::int32_t* labels) const {
      if (--*left < 0) throw Interrupted{};
      Images::fill(epoch, rows, out, labels);
    }
  };
  int forever = 1 << 30, few = 26;
  const auto train = [&](int threads, int& reads, FitOptions options = {}) {
    Model m = model(40);
    m.quantizer.options.commitment = 0.25f;
    m.quantizer.options.dead = {};
    Trainer trainer(m, Adam{.learning_rate = 3e-3f}, Cpu(threads), 7);
    options.epochs = 12;
    options.batch_size = 8;
    Failing data;
    data.left = &reads;
    const auto history = trainer.fit(data, options);
    CHECK(history.back().train_recon < 0.9 * history.front().train_recon);
    CHECK(trainer.learner.updates[1] == 20);
    return bits(trainer.weights());
  };
  const Floats one = train(1, forever);
  for (const float v : one) REQUIRE(std::isfinite(v));
  CHECK(train(2, forever) == one);
  CHECK(train(4, forever) == one);
  TemporaryFolder folder;
  const FitOptions resumed{.checkpoints = Checkpoints{.folder = folder.path, .every = 3, .resume = true}};
  CHECK_THROWS_AS(train(1, few, resumed), Interrupted);
  CHECK(train(2, forever, resumed) == one);
}

TEST_CASE(
    "a classifier of rotations learns, and its features make a perceptual network, from memory and from its file") {
  using Classifier = FeatureClassifier<pixels, Rotations, 4, 6>;
  Trainer trainer(Classifier{}, Adam{.learning_rate = 1e-2f}, Cpu(1), 7);
  const auto history = trainer.fit(Images{}, {.epochs = 15, .batch_size = 8});
  CHECK(history.back().train_loss < 0.5 * history.front().train_loss);

  const FeatureNetwork network = features_of(trainer.weights());
  CHECK(network.layers.size() == 4);
  TemporaryFolder folder;
  const auto path = folder.path + "/classifier.safetensors";
  save(path, trainer.weights());
  const FeatureNetwork from_file = read_feature_network(path);
  Cpu cpu(1);
  Step<Cpu> step(cpu);
  step.begin({}, Mode::evaluation, 1, 1, Stream::noise);
  const auto* space = step.rows(4);
  const auto near = step.constant<pixels>(space, pixels, images.data()),
             far = step.constant<pixels>(space, pixels, images.data() + 4 * pixels.size());
  const float distance = *perceptual_distance(step, network, far, near).value();
  CHECK(distance > 0);
  CHECK(*perceptual_distance(step, from_file, far, near).value() == distance);
  CHECK(*perceptual_distance(step, network, near, near).value() == 0);

  const float corner[] = {1, 2, 3, 4};
  float turned[4];
  detail::rotate(2, 1, 1, corner, turned);
  CHECK(std::equal(turned, turned + 4, std::begin({2.0f, 4.0f, 1.0f, 3.0f})));
}
