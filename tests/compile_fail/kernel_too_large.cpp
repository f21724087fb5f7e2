// An image that became smaller than the kernel.
// error: layer_does_not_accept_shape<4, [a-z0-9:]*Conv2d<8, 4.*>, [^{]*\{1, 1, 8\}>
#include <vaelib/layers/convolution.hpp>

using namespace vaelib;

#ifdef BAD
Sequential<Shape{8, 8, 1}, Conv2d<8, 4, 2>, ReLU, Conv2d<8, 3, 1>, ReLU, Conv2d<8, 4>> chain;
#else
Sequential<Shape{8, 8, 1}, Conv2d<8, 4, 2>, ReLU, Conv2d<8, 3, 1>, ReLU> chain;
#endif
