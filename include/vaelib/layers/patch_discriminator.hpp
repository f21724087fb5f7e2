// A discriminator of patches (PatchGAN); Isola et al. 2017, "Image-to-image translation with conditional adversarial
// networks".
//
//   C(Width)  C(2 Width)  ...  C(min(2^(Layers-1), 8) Width)        4x4 convolutions of stride 2, Layers of them
//   C(min(2^Layers, 8) Width)  1                                    two more of stride 1; one logit a patch
//
// all with padding 1 and a leaky ReLU of slope 0.2 in between, and a norm behind all but the first and the last, as in
// taming-transformers (Esser et al. 2021; there without the biases, which a norm takes out anyway). Each logit sees 16,
// 34, 70 or 142 pixels square for 1 to 4 Layers. An image of n pixels becomes n / 2^Layers - 2.
//
//   PatchDiscriminator<Shape{64, 64, 3}>                                       static
//   PatchDiscriminator<Shape{dynamic, dynamic, dynamic}, 32, 2>{Shape{32, 32, 1}}     given when it is made
#pragma once

#include <vaelib/layers/batch_norm.hpp>
#include <vaelib/layers/convolution.hpp>

namespace vaelib::inline VAELIB_ABI {

/// LeakyReLU with the slope of Radford et al. 2015.
struct SteepLeakyReLU : LeakyReLU {
  constexpr SteepLeakyReLU() : LeakyReLU{0.2f} {}
};

namespace detail {

/// Chain with the layers of stride 2 from the one before At to Layers, and the last two.
template <class Chain, int Width, int Layers, class Norm, int At>
struct PatchLayers {
  static constexpr int width = Width * (At < 3 ? 1 << At : 8), stride = At < Layers ? 2 : 1;
  using Longer = typename Chain::template Append<Conv2d<width, 4, stride, 1>, Norm, SteepLeakyReLU>;
  using type = typename PatchLayers<Longer, Width, Layers, Norm, At + 1>::type;
};
template <class Chain, int Width, int Layers, class Norm, int At>
requires(At > Layers) struct PatchLayers<Chain, Width, Layers, Norm, At> {
  using type = typename Chain::template Append<Conv2d<1, 4, 1, 1>>;
};

}  // namespace detail

template <Shape In, int Width = 64, int Layers = 3, class Norm = BatchNorm>
requires(Width > 0 && Layers > 0) using PatchDiscriminator =
    typename detail::PatchLayers<Sequential<In, Conv2d<Width, 4, 2, 1>, SteepLeakyReLU>, Width, Layers, Norm, 1>::type;

}  // namespace vaelib::inline VAELIB_ABI
