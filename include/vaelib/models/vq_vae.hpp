// The vector-quantized variational autoencoder; van den Oord et al. 2017, "Neural discrete representation learning".
//
//   objective = reconstruction(decoder(q), x) + quantizer's loss        q = quantizer(encoder(x))
//
// All terms are means over numbers, as in the paper and the usual implementations. With a uniform prior over the codes
// KL(q(z|x) || p(z)) is the constant log K for each code, and is left out. In evaluation the objective is the reconstruction alone, so
// that no schedule changes which weights are the best.
#pragma once

#include <vaelib/likelihoods/gaussian.hpp>
#include <vaelib/likelihoods/laplace.hpp>
#include <vaelib/models/batch.hpp>
#include <vaelib/models/losses.hpp>
#include <vaelib/quantizers/vector_quantizer.hpp>

namespace vaelib::inline VAELIB_ABI {

/// mean f(output, target) over all numbers of a batch.
template <class S, class V, class F>
auto mean_of(S& step, F f, V output, V target) {
  const auto sums = mean_rows(step, map_reduce(step, f, output, fixed(target)));
  return map_few(step, ScaleBy{1.0f / float(output.features())}, sums);
}

template <class Difference>
struct MeanDifference {
  template <class S, class V>
  auto operator()(S& step, V output, V target) const {
    return mean_of(step, Difference{}, output, target);
  }
};
using SquaredError = MeanDifference<SquaredDifference>;    ///< mean (y - x)^2
using AbsoluteError = MeanDifference<AbsoluteDifference>;  ///< mean |y - x|

template <class Encoder, class Quantizer, class Decoder, class Reconstruction = SquaredError>
struct VqVae {
  static constexpr Shape takes = Encoder::takes;
  static_assert(agree(Decoder::makes, Encoder::takes), "vaelib: the decoder has to give what the encoder takes");
  static_assert(agree(Encoder::makes, Decoder::takes), "vaelib: the decoder takes vectors of another shape than the encoder gives");

  Encoder encoder{};
  Quantizer quantizer{};
  Decoder decoder{};
  [[no_unique_address]] Reconstruction reconstruction{};

  [[gnu::cold]] void build() {
    encoder.build();
    quantizer.build(encoder.output_shape);
    decoder.build(encoder.output_shape);
    if (decoder.output_shape != encoder.input_shape)
      fail("vaelib: the decoder gives shape ", text_of(decoder.output_shape), ", the encoder takes ", text_of(encoder.input_shape));
  }
  void fields(auto&& f) {
    f("encoder", encoder);
    f("quantizer", quantizer);
    f("decoder", decoder);
  }
  Shape input_shape() const { return encoder.input_shape; }
  Shape code_shape() const { return encoder.output_shape; }

  /// Codes and the vectors that stand for them.
  template <class S, class V>
  auto quantize(S& step, V x) const {
    return quantizer.quantize(step, encoder(step, x));
  }

  template <class S, class B>
  auto loss(S& step, const B& batch) const {
    const auto x = input<takes>(step, batch);
    const auto q = quantize(step, x);
    const auto error = reconstruction(step, decoder(step, q.values), x);
    if (!step.training()) return Losses<decltype(q.loss)>{error, error, detail::known(step, 0)};
    return Losses<decltype(q.loss)>{add(step, error, q.loss), error, q.loss};
  }
};

}  // namespace vaelib::inline VAELIB_ABI
