// The channels of a GroupNorm must divide into its groups.
// error: layer_does_not_accept_shape<1, [a-z0-9:]*GroupNorm<4>, [^{]*\{6, 6, 10\}>
#include <vaelib/layers/convolution.hpp>
#include <vaelib/layers/group_norm.hpp>

using namespace vaelib;

#ifdef BAD
Sequential<Shape{8, 8, 1}, Conv2d<10, 3>, GroupNorm<4>> block;
#else
Sequential<Shape{8, 8, 1}, Conv2d<12, 3>, GroupNorm<4>> block;
#endif
