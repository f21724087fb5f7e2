// The head of the encoder, a Linear, is added behind its last layer, which must therefore be flat.
// error: vaelib: the encoder must end in a flat shape; add Flatten
#include <vaelib/layers/convolution.hpp>
#include <vaelib/layers/flatten.hpp>
#include <vaelib/models/vae.hpp>

using namespace vaelib;

#ifdef BAD
using Encoder = Sequential<Shape{28, 28, 1}, Conv2d<4, 4, 2, 1>, ReLU>;
#else
using Encoder = Sequential<Shape{28, 28, 1}, Conv2d<4, 4, 2, 1>, ReLU, Flatten>;
#endif
using Decoder = Sequential<Shape{16}, Linear<784>, Reshape<Shape{28, 28, 1}>>;
Vae<Encoder, Gaussian<16>, Decoder, Bernoulli> model;
