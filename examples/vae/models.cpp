// The models: fully connected for images of any size, convolutional for 28 x 28 and 64 x 64; each also conditional.
#include <vaelib/vae.hpp>

#include "any_likelihood.hpp"
#include "model.hpp"

namespace vae {

using namespace vaelib;

namespace {

using Code = Gaussian<dynamic>;
constexpr int label_features = 16;  // of the embedding of a label

using FcEncoder = Sequential<Shape{dynamic, dynamic, 1}, Flatten, Linear<dynamic>, ReLU>;
using FcDecoder =
    Sequential<Shape{dynamic}, Linear<dynamic>, ReLU, Linear<dynamic>, Reshape<Shape{dynamic, dynamic, 1}>>;

using Encoder28 =
    Sequential<Shape{28, 28, 1}, Conv2d<32, 4, 2, 1>, ReLU, Conv2d<64, 4, 2, 1>, ReLU, Flatten, Linear<256>, ReLU>;
using Decoder28 = Sequential<Shape{dynamic}, Linear<256>, ReLU, Linear<7 * 7 * 64>, ReLU, Reshape<Shape{7, 7, 64}>,
                             ConvTranspose2d<32, 4, 2, 1>, ReLU, ConvTranspose2d<1, 4, 2, 1>>;

using Encoder64 = Sequential<Shape{64, 64, 1}, Conv2d<32, 4, 2, 1>, ReLU, Conv2d<64, 4, 2, 1>, ReLU,
                             Conv2d<128, 4, 2, 1>, ReLU, Conv2d<256, 4, 2, 1>, ReLU, Flatten>;
using Decoder64 = Sequential<Shape{dynamic}, Linear<4 * 4 * 256>, ReLU, Reshape<Shape{4, 4, 256}>,
                             ConvTranspose2d<128, 4, 2, 1>, ReLU, ConvTranspose2d<64, 4, 2, 1>, ReLU,
                             ConvTranspose2d<32, 4, 2, 1>, ReLU, ConvTranspose2d<1, 4, 2, 1>>;

template <class Model>
class ModelOf : public AnyModel {
 public:
  ModelOf(Model model, const ModelSettings& s)
      : trainer(std::move(model), Adam{.learning_rate = s.learning_rate}, Cpu(s.threads), s.seed) {}

  long parameters() const override { return trainer.weights().count(); }
  int threads() const override { return trainer.learner.backend.threads(); }
  std::uint64_t steps() const override { return trainer.learner.steps; }
  History fit(const SourceView& data, const FitOptions& options) override { return trainer.fit(data, options); }
  void save(const std::string& path, const Metadata& metadata) const override {
    vaelib::save(path, trainer.weights(), metadata);
  }
  void load(const std::string& path) override { vaelib::load(path, trainer.weights()); }
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
  const ElboOptions elbo{.free_bits = s.free_bits};
  if (s.labels == 0) {
    using Model = Vae<Encoder, Code, Decoder, AnyLikelihood>;
    return std::make_unique<ModelOf<Model>>(Model(encoder, code, decoder, likelihood, elbo), s);
  }
  using Model = ConditionalVae<Encoder, Code, Decoder, AnyLikelihood, dynamic, label_features>;
  Model model(encoder, code, decoder, likelihood, elbo);
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
  if (s.image == Encoder28::takes) return make(Encoder28{}, Decoder28{code}, s);
  if (s.image == Encoder64::takes) return make(Encoder64{}, Decoder64{code}, s);
  fail("--model-type conv takes images of 28 x 28 or 64 x 64, found ", text_of(s.image));
}

}  // namespace vae
