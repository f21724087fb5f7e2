// What a processor computes products and convolutions in: float, or bfloat16 (bfloat16.hpp).
#pragma once

#include <vaelib/backend/cpu/convolution.hpp>
#include <vaelib/backend/cpu/convolution_adjoint.hpp>
#include <vaelib/backend/cpu/convolution_gradient.hpp>
#include <vaelib/backend/cpu/product.hpp>
#include <vaelib/version.hpp>

namespace vaelib::inline VAELIB_ABI {

/// A value that brings its code with it: a program that does not name bfloat16_precision does not compile it.
struct Precision {
  void (*product)(cpu::Pool&, cpu::Workspace&, long m, int n, long k, cpu::Matrix a, cpu::Matrix b, float* c, long ldc,
                  bool add, cpu::Finish);
  void (*convolution)(cpu::Pool&, cpu::Workspace&, const ConvolutionShape&, long images, const float* x,
                      const float* weight, float* y, bool add, cpu::Finish);
  void (*convolution_adjoint)(cpu::Pool&, cpu::Workspace&, const ConvolutionShape&, long images, const float* y,
                              const float* weight, float* x, bool add, cpu::Finish);
  void (*convolution_weight_gradient)(cpu::Pool&, cpu::Workspace&, const ConvolutionShape&, long images, const float* x,
                                      const float* y_gradient, float* weight_gradient, bool add);
};

inline constexpr Precision single_precision{cpu::product, cpu::convolution, cpu::convolution_adjoint,
                                            cpu::convolution_weight_gradient};

}  // namespace vaelib::inline VAELIB_ABI
