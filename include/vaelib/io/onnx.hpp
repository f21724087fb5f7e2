// ONNX files, written directly: a graph of operators and its weights, in the messages of onnx.proto. IR version 8,
// operators of opset 17. The first axis of every input and output is the batch, of any size "N".
//
// All weights stand in the file itself, which therefore has less than 2 GiB: paths to other files ("external data") are
// never written. What a model becomes is in io/onnx_export.hpp.
#pragma once

#include <vaelib/core/error.hpp>
#include <vaelib/io/protobuf.hpp>
#include <vaelib/version.hpp>

#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

namespace vaelib::inline VAELIB_ABI {

/// A named attribute of an operator: a number, a text or whole numbers.
class OnnxAttribute {
 public:
  OnnxAttribute(std::string_view name, int value) : OnnxAttribute(name, Type::integer) {
    message.integer(3, std::uint64_t(std::int64_t{value}));
  }
  OnnxAttribute(std::string_view name, float value) : OnnxAttribute(name, Type::real) { message.real(2, value); }
  OnnxAttribute(std::string_view name, const char* value) : OnnxAttribute(name, Type::text) { message.bytes(4, value); }
  OnnxAttribute(std::string_view name, std::initializer_list<int> values) : OnnxAttribute(name, Type::integers) {
    for (const int value : values) message.integer(8, std::uint64_t(std::int64_t{value}));
  }
  detail::ProtobufMessage message;

 private:
  enum class Type { real = 1, integer = 2, text = 3, integers = 7 };
  OnnxAttribute(std::string_view name, Type type) {
    message.bytes(1, name);
    message.integer(20, std::uint64_t(type));
  }
};

enum class OnnxType { f32 = 1, i64 = 7 };

/// Operators in the order of their evaluation; a value is known by its name.
class OnnxGraph {
 public:
  using Extents = std::vector<std::int64_t>;
  using Names = std::vector<std::string>;
  using Attributes = std::vector<OnnxAttribute>;

  explicit OnnxGraph(std::string_view name) { graph.bytes(2, name); }

  /// N x extents.
  void input(std::string_view name, OnnxType type, const Extents& extents) {
    graph.message(11, value_info(name, type, extents));
  }
  void output(std::string_view name, OnnxType type, const Extents& extents) {
    graph.message(12, value_info(name, type, extents));
  }

  /// Applies an operator, and gives the name of its first output; the k-th one after it has ".k" behind.
  std::string node(std::string_view operation, const Names& inputs, const Attributes& attributes = {},
                   int outputs = 1) {
    const std::string name = text(operation, '_', nodes++);
    detail::ProtobufMessage message;
    for (const std::string& input : inputs) message.bytes(1, input);
    for (int k = 0; k < outputs; ++k) message.bytes(2, k == 0 ? name : text(name, '.', k));
    message.bytes(3, name);
    message.bytes(4, operation);
    for (const OnnxAttribute& attribute : attributes) message.message(5, attribute.message);
    graph.message(1, message);
    return name;
  }
  /// Gives a value a name of the caller's.
  void alias(const std::string& value, std::string_view wanted) {
    detail::ProtobufMessage message;
    message.bytes(1, value);
    message.bytes(2, wanted);
    message.bytes(4, "Identity");
    graph.message(1, message);
  }

  /// A tensor of the file, in C order.
  void initializer(std::string_view name, OnnxType type, const Extents& extents, std::string_view bytes) {
    if (bytes.size() > size_limit - graph.encoded.size())
      fail("vaelib: ", name, ": an ONNX file has less than 2 GiB, this model has more");
    detail::ProtobufMessage tensor;
    for (const std::int64_t extent : extents) tensor.integer(1, std::uint64_t(extent));
    tensor.integer(2, std::uint64_t(type));
    tensor.bytes(8, name);
    tensor.bytes(9, bytes);
    graph.message(5, tensor);
  }
  std::string constant(const std::vector<float>& values, const Extents& extents) {
    return constant(OnnxType::f32, extents, detail::bytes_of(values));
  }
  std::string constant(float value) { return constant({value}, {}); }
  /// Whole numbers, as operators take shapes.
  std::string constant(const Extents& values) {
    return constant(OnnxType::i64, {std::int64_t(values.size())}, detail::bytes_of(values));
  }

  /// The file is replaced whole or not at all.
  [[gnu::cold]] void write(const std::string& path) const {
    detail::ProtobufMessage model, operators;
    model.integer(1, 8);
    model.bytes(2, "vaelib");
    model.bytes(3, VAELIB_VERSION);
    operators.bytes(1, "");
    operators.integer(2, 17);
    model.message(8, operators);
    model.message(7, graph);
    if (model.encoded.size() > size_limit) fail(path, ": an ONNX file has less than 2 GiB, this model has more");
    write_file_atomically(path, model.encoded);
  }

  static constexpr std::size_t size_limit = 0x7fffffff;

 private:
  static detail::ProtobufMessage value_info(std::string_view name, OnnxType type, const Extents& extents) {
    detail::ProtobufMessage info, of_tensor, tensor, shape, batch;
    batch.bytes(2, "N");
    shape.message(1, batch);
    for (const std::int64_t extent : extents) {
      detail::ProtobufMessage axis;
      axis.integer(1, std::uint64_t(extent));
      shape.message(1, axis);
    }
    tensor.integer(1, std::uint64_t(type));
    tensor.message(2, shape);
    of_tensor.message(1, tensor);
    info.bytes(1, name);
    info.message(2, of_tensor);
    return info;
  }
  std::string constant(OnnxType type, const Extents& extents, std::string_view bytes) {
    const std::string name = text("constant_", constants++);
    initializer(name, type, extents, bytes);
    return name;
  }

  detail::ProtobufMessage graph;
  int nodes = 0, constants = 0;
};

}  // namespace vaelib::inline VAELIB_ABI
