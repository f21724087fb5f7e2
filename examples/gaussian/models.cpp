// The models: fully connected, convolutional for small images and for larger ones; each also conditional.
#include <vaelib/backend/cpu/bfloat16.hpp>
#include <vaelib/io/onnx_export.hpp>
#include <vaelib/vae.hpp>

#include "any_likelihood.hpp"
#include "model.hpp"

namespace vae {

using namespace vaelib;

/// The mean, as AnyLikelihood::mean.
OnnxValue export_onnx(OnnxExport& out, const AnyLikelihood& likelihood, OnnxValue x) {
  using enum AnyLikelihood::Kind;
  if (likelihood.kind == continuous_bernoulli) return out.apply(ContinuousBernoulli{}, x);
  return likelihood.kind == bernoulli ? out.apply(Bernoulli{}, x) : x;
}

namespace {

using Code = Gaussian<dynamic>;
constexpr int label_features = 16;  // of the embedding of a label

constexpr Shape any_image{dynamic, dynamic, dynamic};

using FcEncoder = Sequential<any_image, Flatten, Linear<dynamic>, ReLU>;
using FcDecoder = Sequential<Shape{dynamic}, Linear<dynamic>, ReLU, Linear<dynamic>, Reshape<any_image>>;

using SmallEncoder = Sequential<any_image, Conv2d<32, 4, 2, 1>, ReLU, Conv2d<64, 4, 2, 1>, ReLU, Flatten, Linear<256>, ReLU>;
using SmallDecoder = Sequential<Shape{dynamic}, Linear<256>, ReLU, Linear<dynamic>, ReLU, Reshape<any_image>,
                                ConvTranspose2d<32, 4, 2, 1>, ReLU, ConvTranspose2d<dynamic, 4, 2, 1>>;

using LargeEncoder = Sequential<any_image, Conv2d<32, 4, 2, 1>, ReLU, Conv2d<64, 4, 2, 1>, ReLU, Conv2d<128, 4, 2, 1>, ReLU,
                                Conv2d<256, 4, 2, 1>, ReLU, Flatten>;
using LargeDecoder = Sequential<Shape{dynamic}, Linear<dynamic>, ReLU, Reshape<any_image>, ConvTranspose2d<128, 4, 2, 1>, ReLU,
                                ConvTranspose2d<64, 4, 2, 1>, ReLU, ConvTranspose2d<32, 4, 2, 1>, ReLU,
                                ConvTranspose2d<dynamic, 4, 2, 1>>;

template <class Model>
class ModelOf : public AnyModel {
 public:
  ModelOf(Model model, const ModelSettings& s)
      : trainer(std::move(model), Adam{.learning_rate = s.learning_rate},
                Cpu(s.threads, s.bfloat16 ? bfloat16_precision : single_precision), s.seed) {}

  long parameters() const override { return trainer.weights().count(); }
  int threads() const override { return trainer.learner.backend.threads(); }
  std::uint64_t steps() const override { return trainer.learner.steps; }
  History fit(const SourceView& data, const FitOptions& options) override { return trainer.fit(data, options); }
  void save(const std::string& path, const Metadata& metadata) const override {
    vaelib::save(path, trainer.weights(), metadata);
  }
  void load(const std::string& path) override { vaelib::load(path, trainer.weights()); }
  void export_onnx(const std::string& folder) const override {
    export_encoder_onnx(folder + "/encoder.onnx", trainer.weights());
    export_decoder_onnx(folder + "/decoder.onnx", trainer.weights());
  }
  std::vector<std::string> load_part(const std::string& path, const std::vector<std::string>& prefixes) override {
    return vaelib::load_part(path, trainer.weights(), prefixes);
  }
  void use_average() override { trainer.weights() = trainer.averaged_weights(); }
  Trial try_step(Pixels images, Labels labels, const StepOptions& options) override {
    auto& learner = trainer.learner;
    const Shape shape = trainer.weights().model.input_shape();
    Trial trial;
    trial.result = learner.learn({long(images.size()) / shape.size(), shape, images.data(), labels}, options);
    for (const auto& [name, p] : learner.weights.parameters)
      trial.tensors.push_back({name, shape_text(vaelib::detail::file_shape(p)), p.size()});
    const auto bytes = [](const auto& buffer) { return std::int64_t(buffer.size()) * 4; };
    trial.weights = bytes(learner.weights.values) + bytes(learner.weights.state);
    trial.training = bytes(learner.gradients) + bytes(learner.average);
    for (const auto& moments : learner.moments)
      for (const auto& moment : moments) trial.training += bytes(moment);
    trial.step = std::int64_t(learner.step.bytes_held()) + bytes(images);
    return trial;
  }
  std::vector<float> encode(Pixels images, Labels labels) const override { return session().encode(images, labels); }
  std::vector<float> log_variances(Pixels images, Labels labels) const override {
    const Shape shape = trainer.weights().model.input_shape();
    return session().run(long(images.size()) / shape.size(), shape, images.data(), labels, 0,
                         [](auto& step, const auto& model, const auto& batch) {
                           const auto x = input<Model::takes>(step, batch);
                           return model.latent.logvar(step, model.encode(step, x, batch));
                         });
  }
  std::vector<float> decode(std::span<const float> codes, Labels labels) const override {
    return session().decode(codes, labels);
  }
  Evidence evidence(Pixels images, Labels labels, int samples, std::uint64_t seed) const override {
    return session().evidence(images, samples, seed, labels);
  }
  std::vector<float> reconstruct(Pixels images, Labels labels) const override {
    return session().reconstruct(images, labels);
  }
  CollapseEvidence examine(const SourceView& images, std::int64_t count, std::uint64_t seed) const override {
    return vaelib::examine(trainer.weights(), images, count, seed);
  }
  std::vector<float> sample(long count, std::uint64_t seed, Labels labels) const override {
    return session().sample(count, seed, labels);
  }

 private:
  Session<Model, Cpu> session() const { return Session<Model, Cpu>(trainer.weights(), Cpu(threads())); }

  Trainer<Model> trainer;
};

template <class Encoder, class Decoder>
std::unique_ptr<AnyModel> make(Encoder encoder, Decoder decoder, const ModelSettings& s) {
  const Code code{.size = s.code_size};
  const AnyLikelihood likelihood(s.likelihood);
  if (s.labels == 0) {
    using Model = Vae<Encoder, Code, Decoder, AnyLikelihood, CollapseControl>;
    return std::make_unique<ModelOf<Model>>(Model(encoder, code, decoder, likelihood, s.elbo), s);
  }
  using Model = ConditionalVae<Encoder, Code, Decoder, AnyLikelihood, dynamic, label_features, CollapseControl>;
  Model model(encoder, code, decoder, likelihood, s.elbo);
  model.encoder.labels.count = s.labels;
  model.decoder.labels.count = s.labels;
  return std::make_unique<ModelOf<Model>>(model, s);
}

}  // namespace

std::unique_ptr<AnyModel> make_model(const ModelSettings& s) {
  const Shape code{s.code_size + (s.labels > 0 ? label_features : 0)};
  const Linear<dynamic> hidden{s.hidden_size};
  if (!s.convolutional)
    return make(FcEncoder{s.image, Flatten{}, hidden, ReLU{}},
                FcDecoder{code, hidden, ReLU{}, Linear<dynamic>{s.image.size()}, {s.image}}, s);
  const bool large = s.image.height >= 48 && s.image.width >= 48;
  const int part = large ? 16 : 4;
  if (s.image.height % part != 0 || s.image.width % part != 0)
    fail("--model-type conv takes images whose sides are multiples of 4, from 48 on of 16, found ", text_of(s.image));
  const Shape inner{s.image.height / part, s.image.width / part, large ? 256 : 64};
  const Linear<dynamic> unfold{inner.size()};
  const ConvTranspose2d<dynamic, 4, 2, 1> last{s.image.channels};
  const ReLU relu;
  if (!large) return make(SmallEncoder{s.image}, SmallDecoder{code, {}, relu, unfold, relu, {inner}, {}, relu, last}, s);
  return make(LargeEncoder{s.image}, LargeDecoder{code, unfold, relu, {inner}, {}, relu, {}, relu, {}, relu, last}, s);
}

}  // namespace vae
