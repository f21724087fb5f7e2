// The decoder makes another shape than the encoder takes.
// error: vaelib: the decoder must make the shape that the encoder takes
#include <vaelib/layers/flatten.hpp>
#include <vaelib/models/vae.hpp>

using namespace vaelib;

using Encoder = Sequential<Shape{28, 28, 1}, Flatten, Linear<64>, ReLU>;
#ifdef BAD
using Decoder = Sequential<Shape{16}, Linear<784>>;
#else
using Decoder = Sequential<Shape{16}, Linear<784>, Reshape<Shape{28, 28, 1}>>;
#endif
Vae<Encoder, Gaussian<16>, Decoder, Bernoulli> model;
