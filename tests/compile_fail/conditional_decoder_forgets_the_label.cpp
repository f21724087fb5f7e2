// The decoder of a ConditionalVae takes the label's features beside the latent.
// error: vaelib: the decoder of a ConditionalVae takes the latent and the label's features
#include <vaelib/layers/flatten.hpp>
#include <vaelib/models/vae.hpp>

using namespace vaelib;

#ifdef BAD
constexpr int takes = 16;
#else
constexpr int takes = 16 + 8;
#endif
using Encoder = Sequential<Shape{28, 28, 1}, Flatten, Linear<64>, ReLU>;
using Decoder = Sequential<Shape{takes}, Linear<784>, Reshape<Shape{28, 28, 1}>>;
ConditionalVae<Encoder, Gaussian<16>, Decoder, Bernoulli, 10, 8> model;
