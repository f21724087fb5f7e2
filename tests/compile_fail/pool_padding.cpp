// The padding of a pool is at most half its kernel.
// error: the padding of a pool is at most half its kernel
#include <vaelib/layers/pooling.hpp>

using namespace vaelib;

#ifdef BAD
Sequential<Shape{8, 8, 1}, MaxPool2d<3, 2, 2>> block;
#else
Sequential<Shape{8, 8, 1}, MaxPool2d<3, 2, 1>> block;
#endif
