// ONNX files are taken apart again. tests/interchange/check_onnx.py has onnx.checker and onnxruntime judge them.
#include <vaelib/backend/cpu/cpu.hpp>
#include <vaelib/io/onnx_export.hpp>
#include <vaelib/train/weights.hpp>

#include "faults.hpp"
#include "protobuf_reader.hpp"

using namespace vaelib;
using namespace io_test;

namespace {

using Texts = std::vector<std::string>;

constexpr Shape image{8, 6, 2};
using Model = Vae<Sequential<image, Conv2d<4, 4, 2, 1>, BatchNorm, ReLU, Flatten>, Gaussian<3>,
                  Sequential<Shape{3}, Linear<48>, Reshape<Shape{4, 3, 4}>, ConvTranspose2d<2, 4, 2, 1>>, Bernoulli>;
using Rows = Sequential<Shape{dynamic}, Linear<dynamic>>;
using Conditional = ConditionalVae<Rows, Gaussian<dynamic>, Rows, FixedGaussian, 4, 2>;

/// What a test asks of a file.
struct Onnx {
  std::string model, graph;
  explicit Onnx(const std::string& path) : model(read_file(path, 1 << 20)), graph(field(model, 7)) {}

  Texts operators() const {
    Texts result;
    for (const std::string& node : repeated(graph, 1)) result.push_back(field(node, 4));
    return result;
  }
  std::string node(const std::string& operation) const {
    for (const std::string& node : repeated(graph, 1))
      if (field(node, 4) == operation) return node;
    FAIL("no operator " << operation);
    return {};
  }
  /// "name:2x3" of each tensor that has a name of the model's.
  Texts weights() const {
    Texts result;
    for (const std::string& tensor : repeated(graph, 5)) {
      std::string entry = field(tensor, 8) + ':';
      for (const std::string& extent : repeated(tensor, 1)) entry += (entry.back() == ':' ? "" : "x") + extent;
      if (!entry.starts_with("constant")) result.push_back(entry);
    }
    return result;
  }
  std::vector<float> values(const std::string& name) const {
    for (const std::string& tensor : repeated(graph, 5)) {
      if (field(tensor, 8) != name) continue;
      const std::string bytes = field(tensor, 9);
      std::vector<float> result(bytes.size() / sizeof(float));
      std::memcpy(result.data(), bytes.data(), bytes.size());
      return result;
    }
    return {};
  }
  /// "name:type:Nx2x8x6" of inputs (11) or outputs (12).
  Texts ends(int number) const {
    Texts result;
    for (const std::string& info : repeated(graph, number)) {
      const std::string tensor = field(field(info, 2), 1);
      std::string entry = field(info, 1) + ':' + field(tensor, 1) + ':';
      const Texts axes = repeated(field(tensor, 2), 1);
      for (std::size_t axis = 0; axis < axes.size(); ++axis)
        entry += (axis == 0 ? "" : "x") + field(axes[axis], axis == 0 ? 2 : 1);
      result.push_back(entry);
    }
    return result;
  }
};

/// An activation and a layer of a user's own.
struct Swish {
  constexpr auto operator()(auto x) const { return x * sigmoid(x); }
};
OnnxValue export_onnx(OnnxExport& out, const Swish&, OnnxValue x) {
  return x.named(out.node("Mul", {x.name, out.node("Sigmoid", {x.name})}));
}
struct Body {
  Sequential<Shape{5}, Linear<5>, Swish> layers{};
  void build() { layers.build(); }
  void fields(auto&& f) { f("layers", layers); }
};

}  // namespace

TEST_CASE("an encoder and a decoder as graphs") {
  const TemporaryFolder folder;
  const Weights<Model, Cpu> weights({}, 3);
  export_encoder_onnx(folder / "encoder.onnx", weights);
  export_decoder_onnx(folder / "decoder.onnx", weights);
  save(folder / "model.safetensors", weights);
  const SafetensorsFile file(folder / "model.safetensors");

  const Onnx encoder(folder / "encoder.onnx");
  CHECK(field(encoder.model, 1) == "8");
  CHECK(field(encoder.model, 2) == "vaelib");
  CHECK(field(field(encoder.model, 8), 2) == "17");
  CHECK(field(encoder.graph, 2) == "encoder");
  CHECK(encoder.ends(11) == Texts{"input:1:Nx2x8x6"});
  CHECK(encoder.ends(12) == Texts{"mean:1:Nx3", "log_variance:1:Nx3"});
  CHECK(encoder.operators() == Texts{"Conv", "BatchNormalization", "Relu", "Flatten", "Gemm", "Split", "Div", "Tanh",
                                     "Mul", "Identity", "Identity"});
  CHECK(encoder.weights() == Texts{"encoder.0.weight:4x2x4x4", "encoder.0.bias:4", "encoder.1.weight:4",
                                   "encoder.1.bias:4", "encoder.1.running_mean:4", "encoder.1.running_var:4",
                                   "encoder.4.weight:6x48", "encoder.4.bias:6"});
  const Texts attributes = repeated(encoder.node("Conv"), 5);
  REQUIRE(attributes.size() == 3);
  CHECK(field(attributes[0], 1) == "kernel_shape");
  CHECK(repeated(attributes[0], 8) == Texts{"4", "4"});
  CHECK(field(attributes[0], 20) == "7");
  CHECK(repeated(attributes[2], 8) == Texts{"1", "1", "1", "1"});
  const std::string epsilon = field(encoder.node("BatchNormalization"), 5);
  CHECK(number<float>(field(epsilon, 2)) == 1e-5f);
  CHECK(field(epsilon, 20) == "1");
  CHECK(repeated(encoder.node("Flatten"), 1) == repeated(encoder.node("Relu"), 2));  // one takes what the other gives

  const Onnx decoder(folder / "decoder.onnx");
  CHECK(decoder.ends(11) == Texts{"code:1:Nx3"});
  CHECK(decoder.ends(12) == Texts{"output:1:Nx2x8x6"});
  CHECK(decoder.operators() == Texts{"Gemm", "Reshape", "ConvTranspose", "Sigmoid", "Identity"});
  CHECK(field(decoder.node("Identity"), 2) == "output");

  for (const auto& [graph, tensor] : {std::pair{&encoder, "encoder.4.weight"},
                                      {&encoder, "encoder.0.weight"},
                                      {&decoder, "decoder.0.bias"},
                                      {&decoder, "decoder.2.weight"}}) {  // as the file of weights has them
    const std::string name = tensor;  // Clang 14 lets no lambda capture a structured binding
    std::vector<float> values(file.find(name)->count());
    file.read(name, values);
    INFO(name);
    CHECK(graph->values(name) == values);
  }
}

TEST_CASE("a conditional model takes labels") {
  const TemporaryFolder folder;
  const Weights<Conditional, Cpu> weights(
      Conditional(Rows{Shape{8}, Linear<dynamic>{6}}, Gaussian<dynamic>{3}, Rows{Shape{5}, Linear<dynamic>{8}}));
  export_encoder_onnx(folder / "encoder.onnx", weights);
  export_decoder_onnx(folder / "decoder.onnx", weights);
  const Onnx encoder(folder / "encoder.onnx"), decoder(folder / "decoder.onnx");
  CHECK(encoder.ends(11) == Texts{"input:1:Nx8", "labels:7:N"});
  CHECK(encoder.weights()[2] == "encoder.labels.weight:4x2");
  CHECK(decoder.ends(11) == Texts{"code:1:Nx3", "labels:7:N"});
  CHECK(decoder.ends(12) == Texts{"output:1:Nx8"});
  CHECK(decoder.operators() == Texts{"Gather", "Concat", "Gemm", "Identity"});
}

TEST_CASE("graphs of one's own: an own activation, and weights that are used twice") {
  const TemporaryFolder folder;
  const Weights<Body, Cpu> weights;
  OnnxExport out("twice", weights);
  const OnnxValue once = out.apply(weights.model.layers, out.input_of("x", Shape{5}));
  out.output_of("y", out.apply(weights.model.layers, once));
  out.write(folder / "twice.onnx");
  const Onnx onnx(folder / "twice.onnx");
  CHECK(onnx.operators() == Texts{"Gemm", "Sigmoid", "Mul", "Gemm", "Sigmoid", "Mul", "Identity"});
  CHECK(onnx.weights() == Texts{"layers.0.weight:5x5", "layers.0.bias:5"});
}

TEST_CASE("what cannot be written") {
  const TemporaryFolder folder;
  OnnxGraph graph("large");
  const char byte = 0;  // never read
  CHECK(error_of([&] {
          graph.initializer("w", OnnxType::f32, {1 << 29}, {&byte, std::size_t{1} << 31});
        }) == "vaelib: w: an ONNX file has less than 2 GiB, this model has more");
  CHECK(error_of([&] { graph.write(folder / "none/x.onnx"); }).find("No such file or directory") != std::string::npos);
  CHECK(names_in(folder.path).empty());
}
