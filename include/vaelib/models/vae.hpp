// The variational autoencoder (Kingma & Welling 2014), the beta-VAE (Higgins et al. 2017) and their conditional form
// (Sohn et al. 2015).
//
//   objective = E_q[-log p(x|z)] + beta KL(q(z|x) || p(z))       nats, summed over features, averaged over samples
//
// with free bits on the batch mean of each dimension, sum_d max(free_bits, KL_d) (Kingma et al. 2016, appendix C.8), or
// with a capacity: beta |KL - C| (Burgess et al. 2018). beta and C come from the schedules of the step.
#pragma once

#include <vaelib/latents/gaussian.hpp>
#include <vaelib/layers/embedding.hpp>
#include <vaelib/layers/linear.hpp>
#include <vaelib/likelihoods/bernoulli.hpp>
#include <vaelib/likelihoods/gaussian.hpp>
#include <vaelib/models/batch.hpp>
#include <vaelib/models/losses.hpp>

namespace vaelib::inline VAELIB_ABI {

/// reconstruction + beta KL, or with a capacity reconstruction + beta |KL - C|
struct Objective {
  bool use_capacity;
  VAELIB_HD constexpr auto operator()(auto reconstruction, auto kl, auto beta, auto capacity) const {
    return reconstruction + beta * select(use_capacity, abs(kl - capacity), kl);
  }
};
/// max(x, floor); at or below the floor the gradient is zero
struct AtLeast {
  float floor;
  VAELIB_HD constexpr auto operator()(auto x) const { return select(x > floor, x, decltype(x)(floor)); }
};

/// How the two terms of the objective are put together.
struct ElboOptions {
  float free_bits = 0;        ///< nats for each dimension; 0: none
  bool use_capacity = false;  ///< beta |KL - C| with the capacity schedule, instead of beta KL
};

template <class S, class Nll, class Kl>
auto negative_elbo(S& step, const ElboOptions& options, Nll nll, Kl kl_of_samples) {
  const auto reconstruction = mean_rows(step, nll);
  const auto by_dimension = mean_rows(step, kl_of_samples);
  const auto kl = sum_few(step, by_dimension);
  const auto charged = options.free_bits > 0 ? sum_few(step, map_few(step, AtLeast{options.free_bits}, by_dimension)) : kl;
  const auto objective = map_few(step, Objective{options.use_capacity}, reconstruction, charged, step.beta, step.capacity);
  return Losses<std::remove_const_t<decltype(kl)>>{objective, reconstruction, kl};
}

/// The terms of a model, put together by its `elbo`: another type than ElboOptions brings an overload of its own, as
/// models/collapse_control.hpp does. q is the posterior, z the sample of it that was decoded.
template <class S, class Latent, class Q, class Z, class Nll>
auto put_together(S& step, const ElboOptions& options, const Latent& latent, const Q& q, Z, Nll nll) {
  return negative_elbo(step, options, nll, latent.kl(step, q));
}

/// The same of a model with a latent z: the noise is drawn, z is decoded, and the terms are put together.
template <class S, class Model, class B>
auto negative_elbo(S& step, const Model& model, const B& batch) {
  const auto x = input<Model::takes>(step, batch);
  const auto q = model.encode(step, x, batch);
  const auto z = model.latent.sample(step, q);
  return put_together(step, model.elbo, model.latent, q, z, model.likelihood.nll(step, model.decode(step, z, batch), x));
}

/// Encoder and Decoder are Sequentials; the last layer of the encoder, a Linear that gives mean and log-variance, is added
/// here (and numbered as one more layer of the encoder).
template <class E, class Latent, class D, class Likelihood, class Terms = ElboOptions>
struct Vae {
  using Encoder = typename E::template Append<Linear<Latent::heads>>;
  using Decoder = D;
  static_assert(agree(D::takes, Latent::sample_shape), "vaelib: the decoder must take what the latent gives");
  static_assert(agree(D::makes, E::takes), "vaelib: the decoder must make the shape that the encoder takes");
  static_assert(E::makes.is_flat(), "vaelib: the encoder must end in a flat shape; add Flatten");

  Encoder encoder{};
  Latent latent{};
  Decoder decoder{};
  Likelihood likelihood{};
  Terms elbo{};

  Vae() = default;
  /// For dynamic extents, and for likelihoods and latents with settings.
  explicit Vae(E e, Latent l = {}, D d = {}, Likelihood p = {}, Terms options = {})
      : encoder(e, Linear<Latent::heads>{l.head_features()}), latent(l), decoder(d), likelihood(p), elbo(options) {}

  [[gnu::cold]] void build() {
    encoder.build();
    decoder.build();
    if constexpr (requires { likelihood.build(); }) likelihood.build();
    if constexpr (requires { elbo.build(); }) elbo.build();
    if (decoder.output_shape != encoder.input_shape)
      fail("vaelib: the decoder makes shape ", text_of(decoder.output_shape), ", the encoder takes ", text_of(encoder.input_shape));
  }
  void fields(auto&& f) {
    f("encoder", encoder);
    f("decoder", decoder);
    f("likelihood", likelihood);
    if constexpr (HasFields<Terms>) f("elbo", elbo);
  }
  Shape input_shape() const { return encoder.input_shape; }
  static constexpr bool conditional = false;
  static constexpr Shape takes = E::takes;

  template <class S, class B>
  auto loss(S& step, const B& batch) const {
    return negative_elbo(step, *this, batch);
  }
  /// q(z|x) of the samples of a batch.
  template <class S, class V, class B>
  auto encode(S& step, V x, const B&) const {
    return latent.posterior(step, encoder(step, x));
  }
  /// The parameters of p(x|z): for Bernoulli logits.
  template <class S, class Z, class B>
  auto decode(S& step, Z z, const B&) const {
    return decoder(step, z);
  }
};

/// A VAE that is told a label: a learned embedding of it goes beside the features of the encoder and beside z.
/// Decoder takes latent + Width features.
template <class E, class Latent, class D, class Likelihood, int Classes, int Width = 16, class Terms = ElboOptions>
struct ConditionalVae {
  using Decoder = D;
  static_assert(agree(D::makes, E::takes), "vaelib: the decoder must make the shape that the encoder takes");
  static_assert(agree(D::takes, joined(Latent::sample_shape, Shape{Width})), "vaelib: the decoder of a ConditionalVae takes the latent and the label's features");

  struct ConditionalEncoder {
    E body{};
    Embedding<Classes, Width> labels{};
    Linear<Latent::heads> head{};
    void fields(auto&& f) {
      body.fields(f);
      f("labels", labels);
      f("head", head);
    }
  };
  struct ConditionalDecoder {
    D body{};
    Embedding<Classes, Width> labels{};
    void fields(auto&& f) {
      body.fields(f);
      f("labels", labels);
    }
  };
  ConditionalEncoder encoder{};
  Latent latent{};
  ConditionalDecoder decoder{};
  Likelihood likelihood{};
  Terms elbo{};

  ConditionalVae() = default;
  /// For dynamic extents, and for likelihoods and latents with settings.
  explicit ConditionalVae(E e, Latent l = {}, D d = {}, Likelihood p = {}, Terms options = {})
      : encoder{e, {}, {l.head_features()}}, latent(l), decoder{d, {}}, likelihood(p), elbo(options) {}

  [[gnu::cold]] void build() {
    encoder.body.build();
    encoder.labels.build();
    encoder.head.build(Shape{encoder.body.output_shape.size() + int(encoder.labels.out)});
    encoder.head.weight.in_order = encoder.body.output_order;
    encoder.head.weight.in_beside = encoder.labels.out;
    decoder.body.build();
    decoder.labels.build();
    if constexpr (requires { likelihood.build(); }) likelihood.build();
    if constexpr (requires { elbo.build(); }) elbo.build();
  }
  void fields(auto&& f) {
    f("encoder", encoder);
    f("decoder", decoder);
    f("likelihood", likelihood);
    if constexpr (HasFields<Terms>) f("elbo", elbo);
  }
  Shape input_shape() const { return encoder.body.input_shape; }
  static constexpr bool conditional = true;
  static constexpr Shape takes = E::takes;

  template <class S, class B>
  auto loss(S& step, const B& batch) const {
    return negative_elbo(step, *this, batch);
  }
  template <class S, class V, class B>
  auto encode(S& step, V x, const B& batch) const {
    const auto features = encoder.body(step, x);
    return latent.posterior(step, encoder.head.forward(step, concatenate(step, features, encoder.labels(step, x.space(), labels_of(batch)))));
  }
  template <class S, class Z, class B>
  auto decode(S& step, Z z, const B& batch) const {
    return decoder.body(step, concatenate(step, z, decoder.labels(step, z.space(), labels_of(batch))));
  }
};

}  // namespace vaelib::inline VAELIB_ABI
