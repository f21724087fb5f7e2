// A masked convolution without a pixel in its middle.
// error: a masked convolution has an odd kernel of at least 3
#include <vaelib/layers/masked_convolution.hpp>

using namespace vaelib;

#ifdef BAD
Sequential<Shape{8, 8, 1}, MaskedConv2d<8, 4, Mask2d::A>> chain;
#else
Sequential<Shape{8, 8, 1}, MaskedConv2d<8, 5, Mask2d::A>> chain;
#endif
