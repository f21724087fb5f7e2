// Models to begin with. What they are made of stands here in full: take it over and change it.
#pragma once

#include <vaelib/layers/convolution.hpp>
#include <vaelib/layers/flatten.hpp>
#include <vaelib/models/vae.hpp>

namespace vaelib::inline VAELIB_ABI {
namespace models {

/// Fully connected, one hidden layer on each side, for samples of any shape with values in [0, 1]; Kingma & Welling 2014,
/// section 5 (with ReLU).
inline auto fc_vae(Shape sample, int hidden, int codes) {
  constexpr Shape any{dynamic, dynamic, dynamic};
  using Encoder = Sequential<any, Flatten, Linear<dynamic>, ReLU>;
  using Decoder = Sequential<Shape{dynamic}, Linear<dynamic>, ReLU, Linear<dynamic>, Reshape<any>>;
  return Vae<Encoder, Gaussian<dynamic>, Decoder, Bernoulli>(
      Encoder{sample, Flatten{}, Linear<dynamic>{hidden}, ReLU{}}, Gaussian<dynamic>{codes},
      Decoder{Shape{codes}, Linear<dynamic>{hidden}, ReLU{}, Linear<dynamic>{sample.size()}, Reshape<any>{sample}});
}

/// Convolutional, for images with values in [0, 1] whose sides are multiples of 4: 32 and 64 channels, 256 units.
template <Shape Image, int Codes>
auto conv_vae() {
  static_assert(Image.height % 4 == 0 && Image.width % 4 == 0, "vaelib: conv_vae takes images whose sides are multiples of 4");
  constexpr Shape small{Image.height / 4, Image.width / 4, 64};
  using Encoder = Sequential<Image, Conv2d<32, 4, 2, 1>, ReLU, Conv2d<64, 4, 2, 1>, ReLU, Flatten, Linear<256>, ReLU>;
  using Decoder = Sequential<Shape{Codes}, Linear<256>, ReLU, Linear<small.size()>, ReLU, Reshape<small>, ConvTranspose2d<32, 4, 2, 1>,
                             ReLU, ConvTranspose2d<Image.channels, 4, 2, 1>>;
  return Vae<Encoder, Gaussian<Codes>, Decoder, Bernoulli>{};
}

}  // namespace models
}  // namespace vaelib::inline VAELIB_ABI
