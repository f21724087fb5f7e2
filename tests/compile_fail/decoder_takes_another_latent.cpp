// The decoder does not take what the latent gives.
// error: vaelib: the decoder must take what the latent gives
#include <vaelib/layers/flatten.hpp>
#include <vaelib/models/vae.hpp>

using namespace vaelib;

#ifdef BAD
constexpr int latent = 12;
#else
constexpr int latent = 16;
#endif
using Encoder = Sequential<Shape{28, 28, 1}, Flatten, Linear<64>, ReLU>;
using Decoder = Sequential<Shape{latent}, Linear<784>, Reshape<Shape{28, 28, 1}>>;
Vae<Encoder, Gaussian<16>, Decoder, Bernoulli> model;
