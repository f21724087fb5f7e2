// A gate wants as many channels of gates as of signals.
// error: layer_does_not_accept_shape<1, [a-z0-9:]*Gated, [^{]*\{1, 1, 9\}>
#include <vaelib/layers/gated.hpp>
#include <vaelib/layers/linear.hpp>

using namespace vaelib;

#ifdef BAD
Sequential<Shape{4}, Linear<9>, Gated> block;
#else
Sequential<Shape{4}, Linear<8>, Gated> block;
#endif
