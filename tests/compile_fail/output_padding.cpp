// An output padding as large as the stride would be rows that no pixel reaches.
// error: vaelib: output padding must be smaller than the stride
#include <vaelib/layers/convolution.hpp>

using namespace vaelib;

#ifdef BAD
ConvTranspose2d<8, 4, 2, 1, 2> layer;
#else
ConvTranspose2d<8, 4, 2, 1, 1> layer;
#endif
