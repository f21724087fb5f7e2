// Messages of the protocol buffers, written directly: fields of a number and a type, one after another. TensorBoard's
// event files and ONNX are such messages.
#pragma once

#include <vaelib/io/file.hpp>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace vaelib::inline VAELIB_ABI {
namespace detail {

class ProtobufMessage {
 public:
  void integer(int field, std::uint64_t value) {
    tag(field, 0);
    varint(value);
  }
  void real(int field, double value) {
    tag(field, 1);
    raw(&value, sizeof value);
  }
  void real(int field, float value) {
    tag(field, 5);
    raw(&value, sizeof value);
  }
  void bytes(int field, std::string_view value) {
    tag(field, 2);
    varint(value.size());
    encoded += value;
  }
  void message(int field, const ProtobufMessage& value) { bytes(field, value.encoded); }
  void reals(int field, const std::vector<double>& values) { bytes(field, bytes_of(values)); }

  std::string encoded;

 private:
  void tag(int field, int type) { varint(static_cast<std::uint64_t>(field * 8 + type)); }
  void raw(const void* value, std::size_t size) { encoded.append(static_cast<const char*>(value), size); }
  void varint(std::uint64_t value) {
    for (; value >= 128; value >>= 7) encoded += static_cast<char>(value | 128);
    encoded += static_cast<char>(value);
  }
};

}  // namespace detail
}  // namespace vaelib::inline VAELIB_ABI
