// The heads of an attention share its width.
// error: vaelib: the number of heads of an attention must divide its width
#include <vaelib/layers/set_attention.hpp>

using namespace vaelib;

#ifdef BAD
ISAB<64, 6> layer;
#else
ISAB<64, 4> layer;
#endif
