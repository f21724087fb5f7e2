// Reshape to another number of features.
// error: layer_does_not_accept_shape<1, [a-z0-9:]*Reshape<.*7, 7, 64.*>, [^{]*\{1, 1, 3000\}>
#include <vaelib/layers/flatten.hpp>
#include <vaelib/layers/linear.hpp>

using namespace vaelib;

#ifdef BAD
constexpr int features = 3000;
#else
constexpr int features = 3136;
#endif
Sequential<Shape{16}, Linear<features>, Reshape<Shape{7, 7, 64}>> decoder;
