// VqVae: PyTorch's numbers, made by tests/golden/make_golden.py, thread invariance, a run that is gone on with.
#include <doctest/doctest.h>

#include <vaelib/backend/cpu/cpu.hpp>
#include <vaelib/io/weights_file.hpp>
#include <vaelib/layers/linear.hpp>
#include <vaelib/metrics/codebook_monitor.hpp>
#include <vaelib/models/vq_vae.hpp>
#include <vaelib/optim/optimizers.hpp>
#include <vaelib/train/session.hpp>
#include <vaelib/train/trainer.hpp>

using namespace vaelib;

namespace {

using Model = VqVae<Sequential<Shape{6}, Linear<4>>, VectorQuantizer<12>, Sequential<Shape{4}, Linear<6>>>;
const std::string golden = text(VAELIB_TEST_FOLDER, "/golden/quantizers.safetensors");

std::vector<float> read(const std::string& name) {
  const SafetensorsFile file(golden);
  REQUIRE_MESSAGE(file.find(name), name);
  std::vector<float> values(file.find(name)->count());
  file.read(name, values);
  return values;
}

double difference(const float* found, const std::vector<float>& wanted) {
  double most = 0, largest = 1e-30;
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    largest = std::max(largest, std::abs(double(wanted[i])));
    most = std::max(most, std::abs(double(found[i]) - double(wanted[i])));
  }
  return most / largest;
}

Model model_with(auto change) {
  Model m;
  m.quantizer.options = {.start = CodebookStart::normal, .decay = 0.9f, .commitment = 0.25f, .dead = never_replaced};
  change(m.quantizer.options);
  return m;
}

void compare(const std::string& name, auto change) {
  INFO(name);
  Learner<Model, Adam, Cpu> learner(model_with(change), Adam{.learning_rate = 0.01f}, Cpu(2), 1);
  auto& w = learner.weights;
  load_part(golden, w, {"encoder.", "decoder.", "quantizer.codebook"});
  const auto x = read("x"), losses = read(name + ".losses");
  const Batch<float> batch{.count = 32, .shape = Shape{6}, .features = x.data()};
  std::vector<float> found;
  for (int step = 0; step < 10; ++step) {
    const auto result = learner.learn(batch);
    found.insert(found.end(), {float(result.objective), float(result.reconstruction), float(result.kl)});
  }
  CHECK(difference(found.data(), losses) < 1e-5);
  const auto& q = w.model.quantizer;
  std::vector<float> table(w.state.data() + q.codebook.offset, w.state.data() + q.codebook.offset + 48);
  if (q.by_gradient())
    for (std::size_t i = 0; i < 48; ++i) table[i] += w.values[q.learned.offset + long(i)];
  CHECK(difference(table.data(), read(name + ".codebook")) < 1e-5);
  const auto weight = read(name + ".weight");  // out x in there
  std::vector<float> turned(24);
  for (std::size_t o = 0; o < 4; ++o)
    for (std::size_t i = 0; i < 6; ++i) turned[o * 6 + i] = w.values[w.model.encoder.layers.layer.weight.offset + long(i * 4 + o)];
  CHECK(difference(turned.data(), weight) < 1e-5);
}

struct Vectors {
  Shape shape() const { return {6}; }
  std::int64_t size() const { return 200; }
  int classes() const { return 0; }
  void fill(std::uint64_t epoch, std::span<const std::uint32_t> rows, float* features, std::int32_t*) const {
    for (const auto row : rows) {
      normal(RandomKey{.seed = 9, .step = epoch}, row, 1, 6, features);
      features += 6;
    }
  }
};

}  // namespace

TEST_CASE("ten steps as in PyTorch: moving averages, the rotation trick, codes learned by gradient") {
  compare("moving", [](auto&) {});
  compare("rotated", [](auto& o) { o.gradient = GradientEstimator::rotation; });
  compare("learned", [](auto& o) { o.learning = CodebookLearning::gradient; });
}

TEST_CASE("a run has the same bits on 1, 2 and 4 threads, dead codes, sampling and all") {
  std::vector<std::vector<float>> ends;
  for (const int threads : {1, 2, 4}) {
    Trainer trainer{model_with([](auto& o) {
                      o.dead = {.below_mean = 0.5f, .every_steps = 2};
                      o.temperature = 0.1f;
                      o.spread = 0.1f;
                      o.start = CodebookStart::k_means;
                    }),
                    Adam{}, Cpu(threads)};
    CodebookMonitor<float> monitor(trainer.weights());
    trainer.fit(Vectors{}, {.epochs = 3, .batch_size = 32, .callbacks = {monitor}});
    REQUIRE(monitor.epochs.size() == 3);
    CHECK(monitor.epochs[0].whole.vectors == 200);
    CHECK(monitor.epochs[2].vectors_a_batch == doctest::Approx(200.0 / 7));
    CHECK(monitor.epochs[2].moving.codes == 12);
    auto& w = trainer.weights();
    ends.emplace_back(w.values.data(), w.values.data() + w.values.size());
    ends.back().insert(ends.back().end(), w.state.data(), w.state.data() + w.state.size());
  }
  CHECK(ends[0] == ends[1]);
  CHECK(ends[0] == ends[2]);
}

TEST_CASE("evaluation is the reconstruction alone; a step that is not finite changes no code") {
  Trainer trainer{model_with([](auto& o) { o.commitment = 3.0f; }), Adam{}, Cpu(1)};
  const auto e = trainer.evaluate(Vectors{});
  CHECK(e.objective == e.reconstruction);
  CHECK(e.kl == 0);
  auto& w = trainer.weights();
  const std::vector<float> before(w.state.data(), w.state.data() + w.state.size());
  const std::vector<float> bad(6, NAN);
  CHECK_THROWS_WITH(trainer.learner.learn({.count = 1, .shape = Shape{6}, .features = bad.data()}), doctest::Contains("the reconstruction loss is nan"));
  CHECK(std::equal(before.begin(), before.end(), w.state.data()));
}
