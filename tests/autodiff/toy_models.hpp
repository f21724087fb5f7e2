// Small models that between them use everything later models depend on: couplings, state, ragged rows, phases.
#pragma once

#include <vaelib/autodiff/checkpoint.hpp>
#include <vaelib/layers/attention.hpp>
#include <vaelib/vae.hpp>

namespace toy {

using namespace vaelib;

inline constexpr Shape pixels{6, 6, 1};

/// Batch norm: couples the samples, and keeps state.
struct BatchNormed {
  using Body = Sequential<pixels, Conv2d<4, 3, 1, 1>, BatchNorm, ReLU, Flatten, Linear<5>, BatchNorm, Tanh, Linear<36>, Reshape<pixels>>;
  Body body{};
  void build() { body.build(); }
  void fields(auto&& f) { f("body", body); }
  auto loss(auto& step, const auto& batch) const {
    const auto x = input<pixels>(step, batch);
    return mean_rows(step, Bernoulli{}.nll(step, body(step, x), x));
  }
};

/// Free bits on the batch mean of each latent dimension.
struct FreeBits : Vae<Sequential<pixels, Flatten, Linear<9>, ReLU>, Gaussian<3>, Sequential<Shape{3}, Linear<9>, SiLU, Linear<36>, Reshape<pixels>>, Bernoulli> {
  FreeBits() { elbo.free_bits = 0.05f; }
};

/// Two ragged inputs: the rows of an image look at the pixels of the same image.
struct Attending {
  Linear<8> points{}, queries{}, out{};
  MultiHeadAttention<8, 2> attention{};
  void build() {
    points.build(Shape{1});
    queries.build(Shape{6});
    attention.build(Shape{8}, Shape{8});
    out.build(Shape{8});
  }
  void fields(auto&& f) {
    f("points", points);
    f("queries", queries);
    f("attention", attention);
    f("out", out);
  }
  auto loss(auto& step, const auto& batch) const {
    // sets of different sizes: image i has 36 - i % 3 pixels and 2 + i % 4 queries
    const long n = batch.count;
    long* pixel = step.arena.template allocate<long>(n + 1);
    long* query = step.arena.template allocate<long>(n + 1);
    pixel[0] = query[0] = 0;
    for (long i = 0; i < n; ++i) {
      pixel[i + 1] = pixel[i] + 36 - i % 3;
      query[i + 1] = query[i] + 2 + i % 4;
    }
    using Real = typename std::remove_cvref_t<decltype(step)>::Real;
    Real* values = step.arena.template allocate<Real>(pixel[n]);
    Real* rows = step.arena.template allocate<Real>(query[n] * 6);
    for (long i = 0; i < n; ++i) {
      std::copy_n(batch.features + i * 36, pixel[i + 1] - pixel[i], values + pixel[i]);
      std::copy_n(batch.features + i * 36, (query[i + 1] - query[i]) * 6, rows + query[i] * 6);
    }
    const auto keys = points.forward(step, step.template constant<Shape{1}>(step.ragged(n, pixel), Shape{1}, values));
    const auto x = step.template constant<Shape{6}>(step.ragged(n, query), Shape{6}, rows);
    const auto y = attention(step, queries.forward(step, x), keys);
    return mean_rows(step, sum_features(step, map(step, Square{}, out.forward(step, y))));
  }
};

/// One encoder run twice in a step: on the samples, and on what was made of them.
struct Twice {
  using Encoder = Sequential<pixels, Flatten, Linear<8>, BatchNorm, Tanh, Linear<4>>;
  using Decoder = Sequential<Shape{4}, Linear<36>, Sigmoid, Reshape<pixels>>;
  Encoder encoder{};
  Decoder decoder{};
  void build() {
    encoder.build();
    decoder.build();
  }
  void fields(auto&& f) {
    f("encoder", encoder);
    f("decoder", decoder);
  }
  auto loss(auto& step, const auto& batch) const {
    const auto x = input<pixels>(step, batch);
    const auto z = encoder(step, x);
    const auto y = decoder(step, z);
    const auto back = subtract(step, encoder(step, y), z);
    const auto error = map_reduce(step, SquaredDifference{}, y, fixed(x));
    return mean_rows(step, add(step, error, map_reduce(step, Square{}, back)));
  }
};

/// A GAN: first the discriminator learns, then the generator through it.
struct Gan {
  static constexpr std::array phases{Phase{"discriminator", "discriminator."}, Phase{"generator", "generator."}};
  Sequential<pixels, Flatten, Linear<8>, LeakyReLU, Linear<1>> discriminator{};
  Sequential<Shape{3}, Linear<8>, BatchNorm, ReLU, Linear<36>, Sigmoid, Reshape<pixels>> generator{};
  void build() {
    discriminator.build();
    generator.build();
  }
  void fields(auto&& f) {
    f("discriminator", discriminator);
    f("generator", generator);
  }
  struct Real1 {
    constexpr auto operator()(auto logit) const { return softplus(-logit); }
  };
  struct Fake {
    constexpr auto operator()(auto logit) const { return softplus(logit); }
  };
  auto loss(auto& step, const auto& batch) const {
    const auto x = input<pixels>(step, batch);
    const auto made = discriminator(step, generator(step, standard_normal<Shape{3}>(step, x.space())));
    if (step.phase == 1) return mean_rows(step, map(step, Real1{}, made));
    return mean_rows(step, add(step, map(step, Real1{}, discriminator(step, x)), map(step, Fake{}, made)));
  }
};

/// A block with dropout, computed again in the backward pass or not.
template <bool Again>
struct Checkpointed {
  using Body = Sequential<pixels, Flatten, Linear<16>, ReLU, Dropout, Linear<12>, BatchNorm, GELU>;
  Sequential<pixels, Conv2d<1, 3, 1, 1>> first{};
  Body body{};
  Sequential<Shape{12}, Linear<36>, Reshape<pixels>> last{};
  void build() {
    first.build();
    body.build();
    last.build();
  }
  void fields(auto&& f) {
    f("first", first);
    f("body", body);
    f("last", last);
  }
  auto loss(auto& step, const auto& batch) const {
    const auto x = input<pixels>(step, batch);
    const auto h = first(step, x);
    const auto y = [&] {
      if constexpr (Again) {
        return checkpoint(step, body, h);
      } else {
        return body(step, h);
      }
    }();
    return mean_rows(step, map_reduce(step, SquaredDifference{}, last(step, y), fixed(x)));
  }
};

/// 6 x 6 images without end: smooth patterns that depend on the row.
struct Patterns {
  long rows = 100;
  std::int64_t size() const { return rows; }
  Shape shape() const { return pixels; }
  int classes() const { return 3; }
  void fill(std::uint64_t, std::span<const std::uint32_t> wanted, float* out, std::int32_t* labels) const {
    for (std::size_t i = 0; i < wanted.size(); ++i) {
      for (int j = 0; j < 36; ++j) out[i * 36 + j] = float((wanted[i] * 7 + j * (1 + wanted[i] % 5)) % 36) / 36.0f;
      if (labels) labels[i] = std::int32_t(wanted[i] % 3);
    }
  }
};

/// The bits of all parameters and states after training.
template <class Model>
std::vector<float> train(int threads, int epochs = 3, FitOptions options = {}, Model model = {}) {
  Trainer trainer(model, Adam{.learning_rate = 1e-2f}, Cpu(threads), 7);
  options.epochs = epochs;
  if (options.batch_size == 128) options.batch_size = 24;  // the last batch of 100 rows has 4
  trainer.fit(Patterns{}, options);
  const auto& w = trainer.weights();
  std::vector<float> bits(w.values.begin(), w.values.end());
  bits.insert(bits.end(), w.state.begin(), w.state.end());
  return bits;
}

}  // namespace toy
