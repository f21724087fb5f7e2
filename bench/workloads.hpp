// The models whose training step is timed, and their work. peers/ has the same in PyTorch and JAX.
#pragma once

#include <string_view>
#include <vaelib/models/vq_vae.hpp>
#include <vaelib/vae.hpp>

namespace bench {

using namespace vaelib;

/// The library's Gaussian latent. Where noise is given, it is taken instead of drawn: for the comparison of losses.
template <int Size>
struct Latent : Gaussian<Size> {
  const float* noise = nullptr;  ///< samples x Size

  struct Reparameterised {
    constexpr auto operator()(auto mu, auto logvar, auto epsilon) const { return mu + exp(logvar * 0.5f) * epsilon; }
  };
  template <class S, class V>
  V sample(S& step, const GaussianPosterior<V>& q) const {
    if (!noise) return Gaussian<Size>::sample(step, q);
    const auto given = step.template constant<Shape{Size}>(q.mu.space(), q.mu.shape, noise);
    return map(step, Reparameterised{}, q.mu, this->logvar(step, q), fixed(given));
  }
};

/// Fully connected, Bernoulli.
struct Fc {
  static constexpr std::string_view name = "fc";
  static constexpr int batch = 128, latent = 20;
  static constexpr double constant = 0;  ///< of the loss, nats a sample, that the peers leave out
  /// Multiplications of each layer for one sample.
  static constexpr long products[] = {784 * 400, 400 * 40, 20 * 400, 400 * 784};

  using Encoder = Sequential<Shape{784}, Linear<400>, ReLU>;
  using Decoder = Sequential<Shape{latent}, Linear<400>, ReLU, Linear<784>>;
  using Model = Vae<Encoder, Latent<latent>, Decoder, Bernoulli>;
};

/// Two convolutions each way, Bernoulli.
struct Conv28 {
  static constexpr std::string_view name = "conv28";
  static constexpr int batch = 128, latent = 16;
  static constexpr double constant = 0;
  static constexpr long products[] = {
      14 * 14 * 16 * 1 * 32, 7 * 7 * 16 * 32 * 64, 3136 * 256, 256 * 32, 16 * 256, 256 * 3136,
      7 * 7 * 16 * 64 * 32,  14 * 14 * 16 * 32 * 1};

  using Encoder =
      Sequential<Shape{28, 28, 1}, Conv2d<32, 4, 2, 1>, ReLU, Conv2d<64, 4, 2, 1>, ReLU, Flatten, Linear<256>, ReLU>;
  using Decoder = Sequential<Shape{latent}, Linear<256>, ReLU, Linear<7 * 7 * 64>, ReLU, Reshape<Shape{7, 7, 64}>,
                             ConvTranspose2d<32, 4, 2, 1>, ReLU, ConvTranspose2d<1, 4, 2, 1>>;
  using Model = Vae<Encoder, Latent<latent>, Decoder, Bernoulli>;
};

/// Four convolutions each way, squared error: a Gaussian of sigma^2 = 1/2 up to its constant, log(pi) / 2 a feature.
struct Conv64 {
  static constexpr std::string_view name = "conv64";
  static constexpr int batch = 64, latent = 128;
  static constexpr double constant = 64 * 64 * 3 * 0.57236494292470008707;
  static constexpr long products[] = {32 * 32 * 16 * 3 * 32,
                                      16 * 16 * 16 * 32 * 64,
                                      8 * 8 * 16 * 64 * 128,
                                      4 * 4 * 16 * 128 * 256,
                                      4096 * 256,
                                      128 * 4096,
                                      4 * 4 * 16 * 256 * 128,
                                      8 * 8 * 16 * 128 * 64,
                                      16 * 16 * 16 * 64 * 32,
                                      32 * 32 * 16 * 32 * 3};

  using Encoder = Sequential<Shape{64, 64, 3}, Conv2d<32, 4, 2, 1>, ReLU, Conv2d<64, 4, 2, 1>, ReLU,
                             Conv2d<128, 4, 2, 1>, ReLU, Conv2d<256, 4, 2, 1>, ReLU, Flatten>;
  using Decoder =
      Sequential<Shape{latent}, Linear<4096>, ReLU, Reshape<Shape{4, 4, 256}>, ConvTranspose2d<128, 4, 2, 1>, ReLU,
                 ConvTranspose2d<64, 4, 2, 1>, ReLU, ConvTranspose2d<32, 4, 2, 1>, ReLU, ConvTranspose2d<3, 4, 2, 1>>;
  using Model = Vae<Encoder, Latent<latent>, Decoder, FixedGaussian>;
};

/// Two strided convolutions and two residual blocks each way, 8 x 8 codes out of 512 that learn by moving averages, squared error.
struct Vq {
  static constexpr std::string_view name = "vq";
  static constexpr int batch = 64, latent = 0;
  static constexpr double constant = 0;
  static constexpr long block = 64 * (9 * 128 * 32 + 32 * 128);
  static constexpr long products[] = {
      16 * 16 * 16 * 3 * 64, 8 * 8 * 16 * 64 * 128, 64 * 9 * 128 * 128, block, block, 64 * 128 * 64, 64 * 512 * 64 / 3,  // the search is forward only
      64 * 9 * 64 * 128,     block,                 block,              8 * 8 * 16 * 128 * 64, 16 * 16 * 16 * 64 * 3};

  using Block = Residual<ReLU, Conv2d<32, 3, 1, 1>, ReLU, Conv2d<128, 1>>;
  using Encoder = Sequential<Shape{32, 32, 3}, Conv2d<64, 4, 2, 1>, ReLU, Conv2d<128, 4, 2, 1>, ReLU, Conv2d<128, 3, 1, 1>, Block, Block, ReLU, Conv2d<64, 1>>;
  using Decoder = Sequential<Shape{8, 8, 64}, Conv2d<128, 3, 1, 1>, Block, Block, ReLU, ConvTranspose2d<64, 4, 2, 1>, ReLU, ConvTranspose2d<3, 4, 2, 1>>;
  struct Model : VqVae<Encoder, VectorQuantizer<512>, Decoder> {
    Model() { quantizer.options = {.start = CodebookStart::normal, .decay = 0.99f, .commitment = 0.25f, .dead = never_replaced}; }  // what the peers do
  };
};

/// Floating point operations of a step: each layer's product forward, for the gradient of its weights and, the first
/// layer excepted, for the gradient of its inputs.
template <class Workload>
constexpr double flops() {
  double all = 0;
  for (long product : Workload::products) all += double(product);
  return 2.0 * Workload::batch * (3 * all - double(Workload::products[0]));
}

/// A model with its optimizer and a batch of noise as images: the work does not depend on what they show.
template <class Workload>
struct Training {
  Learner<typename Workload::Model, Adam, Cpu> learner;
  std::vector<float> images;
  Batch<float> batch;

  explicit Training(int threads, Precision precision = single_precision)
      : learner({}, Adam{}, Cpu(threads, precision), 1) {
    const Shape shape = learner.weights.model.input_shape();
    images.resize(std::size_t(Workload::batch) * shape.size());
    uniform(RandomKey{}, 0, Workload::batch, shape.size(), images.data());
    batch = {.count = Workload::batch, .shape = shape, .features = images.data()};
  }
  /// The objective as the peers count it.
  double step() { return learner.learn(batch).objective - Workload::constant; }
};

}  // namespace bench
