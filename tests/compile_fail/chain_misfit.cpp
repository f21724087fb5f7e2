// Linear after a convolution: Flatten was forgotten.
// error: layer_does_not_accept_shape<2, [a-z0-9:]*Linear<256>, [^{]*\{13, 13, 4\}>
#include <vaelib/layers/convolution.hpp>
#include <vaelib/layers/flatten.hpp>

using namespace vaelib;

#ifdef BAD
using Encoder = Sequential<Shape{28, 28, 1}, Conv2d<4, 4, 2>, ReLU, Linear<256>>;
#else
using Encoder = Sequential<Shape{28, 28, 1}, Conv2d<4, 4, 2>, ReLU, Flatten, Linear<256>>;
#endif
static_assert(Encoder::makes == Shape{256});
