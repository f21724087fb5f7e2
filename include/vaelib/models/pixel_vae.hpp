// A VAE whose decoder predicts one pixel after another, p(x|z) = product of p(x_i | x before i, z): Gulrajani et al. 2016, "PixelVAE".
//
//   c = decoder(z)                                     features of z, height x width x channels
//   h = A(drop(x)) + c                                 A, B: masked convolutions
//   h = h + B(ReLU(h)) + U_l c    for each layer       U_l: 1x1, only with `skips`
//   y = V ReLU(h)                                      V: 1x1; the parameters of p(x|z)
//
// Such a decoder can do without z, and then the posterior collapses. Three things weaken it, so that z is needed: `drop` (each
// pixel that it sees is 0 with this probability in training, as word dropout does; Bowman et al. 2016), few layers and
// small kernels (it sees no further than kernel / 2 pixels a layer; Chen et al. 2017, "Variational lossy autoencoder"), and
// `skips`, which lead z to every layer (Dieng et al. 2019).
#pragma once

#include <vaelib/layers/dropout.hpp>
#include <vaelib/layers/masked_convolution.hpp>
#include <vaelib/models/vae.hpp>
#include <vaelib/priors/pixel_cnn.hpp>

#include <vector>

namespace vaelib::inline VAELIB_ABI {

/// The masked convolutions above c. Kernel: odd, 3 or more.
template <int Kernel = 5>
struct PixelStack {
  int layers = 4;
  bool skips = true;
  Dropout drop{0};

  MaskedConv2d<dynamic, Kernel, Mask2d::A> first{};
  std::vector<MaskedConv2d<dynamic, 3, Mask2d::B>> rest{};
  std::vector<detail::Pixelwise> lead{};
  detail::Pixelwise last{};

  /// How many rows above its own a pixel sees.
  int sight() const { return Kernel / 2 + layers; }

  [[gnu::cold]] void build(Shape image, Shape features) {
    if (layers < 0) fail("vaelib: a PixelStack of ", layers, " layers");
    drop.build(image);
    first.out = features.channels;
    first.build(image);
    rest.assign(std::size_t(layers), {});
    lead.assign(skips ? std::size_t(layers) : 0, {});
    for (auto& layer : rest) {
      layer.out = features.channels;
      layer.build(features);
    }
    for (auto& layer : lead) {
      layer.out = features.channels;
      layer.build(features);
    }
    last.out = image.channels;
    last.build(features);
  }
  void fields(auto&& f) {
    f("first", first);
    for (std::size_t l = 0; l < rest.size(); ++l) f(text("rest.", l), rest[l]);
    for (std::size_t l = 0; l < lead.size(); ++l) f(text("lead.", l), lead[l]);
    f("last", last);
  }
  template <class S, class X, class C>
  X operator()(S& step, X x, C c) const {
    using Any = Var<typename X::Real, Shape{dynamic, dynamic, dynamic}>;
    const Any features{c.node, c.shape}, seen{drop.forward(step, x).node, x.shape};
    Any h = add(step, first.forward(step, seen), features);
    for (std::size_t l = 0; l < rest.size(); ++l) {
      h = add(step, h, rest[l].forward(step, map(step, ReLU{}, h)));
      if (skips) h = add(step, h, lead[l].forward(step, features));
    }
    const Any y = last.forward(step, map(step, ReLU{}, h));
    return {y.node, x.shape};
  }
};

/// D gives c; the rest is as in Vae.
template <class E, class Latent, class D, class Likelihood, class Stack = PixelStack<>, class Terms = ElboOptions>
struct PixelVae {
  using Encoder = typename E::template Append<Linear<Latent::heads>>;
  using Decoder = D;
  static_assert(agree(D::takes, Latent::sample_shape), "vaelib: the decoder must take what the latent gives");
  static_assert(E::makes.is_flat(), "vaelib: the encoder must end in a flat shape; add Flatten");
  static constexpr bool conditional = false;
  static constexpr Shape takes = E::takes;

  Encoder encoder{};
  Latent latent{};
  Decoder decoder{};
  Stack stack{};
  Likelihood likelihood{};
  Terms elbo{};

  [[gnu::cold]] void build() {
    encoder.build();
    decoder.build();
    const Shape image = encoder.input_shape, features = decoder.output_shape;
    if (features.height != image.height || features.width != image.width)
      fail("vaelib: the decoder of a PixelVae makes shape ", text_of(features), ", images have ", text_of(image), "; height and width have to be the same");
    stack.build(image, features);
    if constexpr (requires { likelihood.build(); }) likelihood.build();
    if constexpr (requires { elbo.build(); }) elbo.build();
  }
  void fields(auto&& f) {
    f("encoder", encoder);
    f("decoder", decoder);
    f("stack", stack);
    f("likelihood", likelihood);
    if constexpr (HasFields<Terms>) f("elbo", elbo);
  }
  Shape input_shape() const { return encoder.input_shape; }

  template <class S, class B>
  auto loss(S& step, const B& batch) const {
    return negative_elbo(step, *this, batch);
  }
  template <class S, class V, class B>
  auto encode(S& step, V x, const B&) const {
    return latent.posterior(step, encoder(step, x));
  }
  /// The parameters of p(x_i | x before i, z) for the pixels of a batch.
  template <class S, class Z, class B>
  auto decode(S& step, Z z, const B& batch) const {
    return stack(step, input<takes>(step, batch), decoder(step, z));
  }
};

/// Images of z ~ p(z), drawn pixel by pixel in reading order: rows x image. For a Bernoulli likelihood and images of one channel.
template <class Session>
std::vector<float> draw_pixels(Session& session, long rows, Shape image, std::uint64_t seed) {
  if (image.channels != 1) fail("vaelib: draw_pixels takes images of one channel, found shape ", text_of(image));
  std::vector<float> x(std::size_t(rows) * std::size_t(image.size()));
  session.run(rows, image, x.data(), nullptr, seed, [&](auto& step, const auto& m, const auto& batch) {
    const auto z = m.latent.prior(step, batch.space);
    const auto uniform = step.template variable<Shape{dynamic}>(batch.space, Shape{image.size()}, false);
    step.backend.uniform(step.next_key(), 0, rows, image.size(), uniform.value());
    for (int p = 0; p < image.size(); ++p) {
      const auto before = step.position();
      const auto mean = m.likelihood.mean(step, m.decode(step, z, batch));
      for (long r = 0; r < rows; ++r) x[std::size_t(r * image.size() + p)] = uniform.value()[r * image.size() + p] < mean.value()[r * image.size() + p] ? 1.0f : 0.0f;
      step.forget(before);
    }
    return z;
  });
  return x;
}

}  // namespace vaelib::inline VAELIB_ABI
