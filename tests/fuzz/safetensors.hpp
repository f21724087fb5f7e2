// safetensors files for their two harnesses: read to the last tensor, and mutated so that lengths and offsets still
// fit.
#pragma once

#include <vaelib/io/safetensors.hpp>

#include <cstdlib>

#include "harness.hpp"

namespace fuzz {

inline void read_tensors(const vaelib::SafetensorsFile& file) {
  for (const vaelib::TensorInfo& tensor : file.tensors()) {
    if (file.find(tensor.name) != &tensor) __builtin_trap();
    std::vector<float> values(static_cast<std::size_t>(tensor.count()));
    file.read(tensor.name, values);
    std::string raw(static_cast<std::size_t>(tensor.end - tensor.begin), '\0');
    file.read_raw(tensor.name, tensor.dtype, values.size(), raw.data());
  }
}

#ifdef VAELIB_FUZZING

/// A header of a few tensors whose offsets fit, with now and then an extent that does not.
inline std::string some_header(Random& random, bool checkpoint) {
  static constexpr const char* extents[] = {
      "0", "1", "2", "3", "2147483648", "4294967296", "9223372036854775808", "18446744073709551615", "-1"};
  std::string header = "{";
  if (checkpoint || random.below(3) == 0) header += "\"__metadata__\":{\"k\":\"v\",\"checkpoint.step\":\"7\"},";
  std::size_t begin = 0;
  const auto add = [&](const std::string& name, std::string_view type, const std::string& shape, std::size_t bytes) {
    header += vaelib::text('"', name, "\":{\"dtype\":\"", type, "\",\"shape\":[", shape, "],\"data_offsets\":[", begin,
                           ',', begin + bytes, "]},");
    begin += bytes;
  };
  for (std::size_t tensors = random.below(5); tensors > 0; --tensors) {
    const auto& type = vaelib::detail::dtype_table[random.below(vaelib::detail::dtype_table.size())];
    std::string shape;
    std::size_t bytes = type.size;
    for (std::size_t axes = random.below(5); axes > 0; --axes) {
      const std::size_t extent = random.below(random.below(20) == 0 ? 9 : 4);
      shape += vaelib::text(shape.empty() ? "" : ",", extents[extent]);
      bytes *= extent;
    }
    add(std::string(1, static_cast<char>('a' + random.below(6))), type.name, shape, bytes);
  }
  if (checkpoint) add("checkpoint.crc32", "U8", "4", 4);
  if (header.size() > 1) header.pop_back();
  return header + '}';
}

/// Mutates header or data alone, or begins anew; then the length of the header and the number of bytes behind it fit
/// again.
inline std::size_t mutate_safetensors(std::uint8_t* data, std::size_t size, std::size_t most, unsigned seed,
                                      bool checkpoint) {
  Input input(data, size, most);
  Random random(seed);
  const std::size_t choice = random.below(16);
  std::uint64_t length = 0;
  if (size >= 8) input.content.copy(reinterpret_cast<char*>(&length), 8);
  if (choice == 0 || (choice > 1 && (size < 9 || length > size - 8))) return LLVMFuzzerMutate(data, size, most);
  std::string header, tensors;
  if (choice == 1) {
    header = some_header(random, checkpoint);
  } else {
    header = input.content.substr(8, length), tensors = input.content.substr(8 + length);
    std::string& part = choice < 14 || tensors.empty() ? header : tensors;
    part = Input::mutated(part, part.size() + 64);
  }
  std::size_t end = 0;  // the largest end of a tensor
  for (std::size_t at = 0; (at = header.find("_offsets\":[", at)) != std::string::npos;) {
    at = header.find(',', at);
    if (at == std::string::npos) break;
    end = std::max<std::size_t>(end, std::strtoull(header.c_str() + at + 1, nullptr, 10));
  }
  if (end < most) tensors.resize(end, 'x');
  length = header.size();
  input.content.assign(reinterpret_cast<const char*>(&length), 8).append(header).append(tensors);
  return input.put();
}

#endif

}  // namespace fuzz
