// A discriminator that takes other images than the autoencoder makes.
// error: the discriminator has to take what the encoder takes
#include <vaelib/layers/patch_discriminator.hpp>
#include <vaelib/models/vqgan.hpp>

using namespace vaelib;

using Encoder = Sequential<Shape{16, 16, 3}, Conv2d<4, 4, 2, 1>>;
using Decoder = Sequential<Shape{8, 8, 4}, ConvTranspose2d<3, 4, 2, 1>>;
#ifdef BAD
using Model = VqGan<Encoder, VectorQuantizer<8>, Decoder, PatchDiscriminator<Shape{32, 32, 3}, 4, 2>>;
#else
using Model = VqGan<Encoder, VectorQuantizer<8>, Decoder, PatchDiscriminator<Shape{16, 16, 3}, 4, 2>>;
#endif
static_assert(Model::phases.size() == 2);
