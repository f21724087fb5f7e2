// A row space says what the rows of a variable are: the samples of a batch, the points of all its sets, its inducing
// points. Variables of different row spaces cannot be combined, even where the counts happen to agree.
#pragma once

#include <vaelib/core/error.hpp>

namespace vaelib::inline VAELIB_ABI {

struct RowSpace {
  long count = 0;
  long first = 0;                 ///< position of the first row in the global batch: the random numbers of a row depend on it
  long groups = 0;                ///< ragged rows: how many sets the rows belong to
  const long* offsets = nullptr;  ///< ragged rows: set s holds the rows offsets[s] .. offsets[s + 1] - 1; groups + 1 numbers
  int each = 0;                   ///< ragged rows: how many every set has, where a layer made them so; 0: they vary
};

}  // namespace vaelib::inline VAELIB_ABI
