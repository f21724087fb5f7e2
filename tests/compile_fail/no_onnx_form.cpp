// An activation or layer without an export_onnx of its own has no place in an ONNX file.
// error: has_no_onnx_form<[a-z0-9:]*Swish>
#include <vaelib/io/onnx_export.hpp>

using namespace vaelib;

struct Swish {
  constexpr auto operator()(auto x) const { return x * sigmoid(x); }
};
#ifndef BAD
OnnxValue export_onnx(OnnxExport&, const Swish&, OnnxValue x) { return x; }
#endif

OnnxValue body(OnnxExport& out, const Sequential<Shape{5}, Swish>& layers, OnnxValue x) { return out.apply(layers, x); }
