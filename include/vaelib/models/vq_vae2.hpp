// The hierarchical VQ-VAE of two levels; Razavi et al. 2019, "Generating diverse high-fidelity images with VQ-VAE-2".
//
//   h = bottom_encoder(x)                         x: the image, h: a grid
//   t = top_quantizer(top_encoder(h))             a coarser grid: what the image as a whole is like
//   u = top_decoder(t)                            as large as h
//   b = bottom_quantizer(conditional([u, h]))     the details, given the top
//   y = decoder([u, b])                           [ , ] joins channels
//
//   objective = reconstruction(y, x) + both quantizers' losses
//
// The authors enlarge t twice, by layers of their own for the bottom and for the decoder; here both see u. In
// evaluation the objective is the reconstruction alone, as that of VqVae is.
//
// Nothing makes the top say anything that the bottom can say alone: give the bottom few codes for small images.
#pragma once

#include <vaelib/models/vq_vae.hpp>

namespace vaelib::inline VAELIB_ABI {

/// The shape of two images of one size, the channels of the second behind those of the first.
constexpr Shape joined_channels(Shape a, Shape b) {
  return {a.height, a.width, a.channels == dynamic || b.channels == dynamic ? dynamic : a.channels + b.channels};
}

template <class S, class R, Shape A, Shape B>
auto concatenate_channels(S& step, Var<R, A> a, Var<R, B> b) {
  constexpr Shape joined = joined_channels(A, B);
  if (a.space() != b.space() || a.shape.height != b.shape.height || a.shape.width != b.shape.width)
    fail("vaelib: images of shapes ", text_of(a.shape), " and ", text_of(b.shape), " cannot be joined");
  auto y = step.template variable<joined>(a.space(), joined_channels(a.shape, b.shape), step.needs_gradient(a, b));
  const long pixels = a.rows() * a.shape.height * a.shape.width;
  const int first = a.shape.channels, second = b.shape.channels, wide = first + second;
  step.backend.copy_columns(pixels, first, a.value(), first, y.value(), wide, false);
  step.backend.copy_columns(pixels, second, b.value(), second, y.value() + first, wide, false);
  if (y.needs_gradient())
    step.record({y.node}, [=](S& s) {
      if (auto t = s.target(a)) s.backend.copy_columns(pixels, first, s.gradient(y), wide, t.data, first, t.add);
      if (auto t = s.target(b))
        s.backend.copy_columns(pixels, second, s.gradient(y) + first, wide, t.data, second, t.add);
    });
  return y;
}

template <class BottomEncoder, class TopEncoder, class TopQuantizer, class TopDecoder, class Conditional,
          class BottomQuantizer, class Decoder, class Reconstruction = SquaredError>
struct VqVae2 {
  static constexpr Shape takes = BottomEncoder::takes;
  static_assert(agree(TopEncoder::takes, BottomEncoder::makes),
                "vaelib: the top encoder takes what the bottom encoder gives");
  static_assert(agree(TopDecoder::takes, TopEncoder::makes),
                "vaelib: the top decoder takes what the top encoder gives");
  static_assert(agree(Conditional::takes, joined_channels(TopDecoder::makes, BottomEncoder::makes)),
                "vaelib: the conditional part takes the channels of top decoder and bottom encoder");
  static_assert(agree(Decoder::takes, joined_channels(TopDecoder::makes, Conditional::makes)),
                "vaelib: the decoder takes the channels of top decoder and conditional part");
  static_assert(agree(Decoder::makes, BottomEncoder::takes),
                "vaelib: the decoder has to give what the bottom encoder takes");

  BottomEncoder bottom_encoder{};
  TopEncoder top_encoder{};
  TopQuantizer top_quantizer{};
  TopDecoder top_decoder{};
  Conditional conditional{};
  BottomQuantizer bottom_quantizer{};
  Decoder decoder{};
  [[no_unique_address]] Reconstruction reconstruction{};

  [[gnu::cold]] void build() {
    bottom_encoder.build();
    const Shape h = bottom_encoder.output_shape;
    top_encoder.build(h);
    top_quantizer.build(top_encoder.output_shape);
    top_decoder.build(top_encoder.output_shape);
    const Shape u = top_decoder.output_shape;
    if (u.height != h.height || u.width != h.width)
      fail("vaelib: the top decoder gives shape ", text_of(u), ", the bottom encoder ", text_of(h),
           ", expected the same height and width");
    conditional.build(joined_channels(u, h));
    bottom_quantizer.build(conditional.output_shape);
    decoder.build(joined_channels(u, conditional.output_shape));
    if (decoder.output_shape != bottom_encoder.input_shape)
      fail("vaelib: the decoder gives shape ", text_of(decoder.output_shape), ", the bottom encoder takes ",
           text_of(bottom_encoder.input_shape));
  }
  void fields(auto&& f) {
    f("bottom_encoder", bottom_encoder);
    f("top_encoder", top_encoder);
    f("top_quantizer", top_quantizer);
    f("top_decoder", top_decoder);
    f("conditional", conditional);
    f("bottom_quantizer", bottom_quantizer);
    f("decoder", decoder);
  }
  Shape input_shape() const { return bottom_encoder.input_shape; }
  Shape top_shape() const { return top_encoder.output_shape; }
  Shape bottom_shape() const { return conditional.output_shape; }

  /// The codes of both levels and their vectors, and the top as the bottom sees it.
  template <class Top, class Bottom, class V>
  struct Codes {
    Top top;
    Bottom bottom;
    V enlarged;
  };
  template <class S, class V>
  auto quantize(S& step, V x) const {
    const auto h = bottom_encoder(step, x);
    const auto top = top_quantizer.quantize(step, top_encoder(step, h));
    const auto enlarged = top_decoder(step, top.values);
    const auto bottom = bottom_quantizer.quantize(step, conditional(step, concatenate_channels(step, enlarged, h)));
    return Codes<std::remove_const_t<decltype(top)>, std::remove_const_t<decltype(bottom)>,
                 std::remove_const_t<decltype(enlarged)>>{top, bottom, enlarged};
  }
  /// Images of the vectors of both levels.
  template <class S, class Top, class Bottom>
  auto decode(S& step, Top top, Bottom bottom) const {
    return decoder(step, concatenate_channels(step, top_decoder(step, top), bottom));
  }

  template <class S, class B>
  auto loss(S& step, const B& batch) const {
    const auto x = input<takes>(step, batch);
    const auto q = quantize(step, x);
    const auto error = reconstruction(step, decoder(step, concatenate_channels(step, q.enlarged, q.bottom.values)), x);
    using Number = std::remove_const_t<decltype(error)>;
    if (!step.training()) return Losses<Number>{error, error, detail::known(step, 0)};
    const Number charge = map_few(step, Add{}, q.top.loss, q.bottom.loss);
    return Losses<Number>{map_few(step, Add{}, error, charge), error, charge};
  }
};

}  // namespace vaelib::inline VAELIB_ABI
