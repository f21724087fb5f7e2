// What operations of a backend are told about their operands, in plain numbers.
#pragma once

#include <vaelib/version.hpp>

namespace vaelib::inline VAELIB_ABI {

/// A matrix: element (i, p) is data[i * row + p * step], and one of row and step is 1, so that transposing copies nothing.
template <class Real>
struct MatrixView {
  const Real* data;
  long row, step;
};

/// A convolution of x (height x width x channels) to y (out_height x out_width x out_channels), channels last;
/// the weight is kernel_height x kernel_width x channels x out_channels.
struct ConvolutionShape {
  int height, width, channels, out_height, out_width, out_channels, kernel_height, kernel_width, stride, padding;
};

}  // namespace vaelib::inline VAELIB_ABI
