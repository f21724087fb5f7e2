// The body of a Residual must give back the shape that it was given.
// error: layer_does_not_accept_shape<0, [a-z0-9:]*Residual<.*Linear<8>.*>, [^{]*\{1, 1, 9\}>
#include <vaelib/layers/linear.hpp>
#include <vaelib/layers/residual.hpp>

using namespace vaelib;

#ifdef BAD
Sequential<Shape{9}, Residual<ReLU, Linear<8>>> block;
#else
Sequential<Shape{9}, Residual<ReLU, Linear<9>>> block;
#endif
