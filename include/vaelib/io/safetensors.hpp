// safetensors files: u64 length of the header (little-endian), the header in JSON, then the tensors one after another.
//
// Reading: the header is checked in full against the file's true size before a tensor is read; a tensor is then read
// alone, by its position. Writing: the bytes that the reference implementation writes for the same content (tensors by
// decreasing Dtype, then by name; its metadata have a random order, these are sorted), the file replaced atomically.
#pragma once

#include <vaelib/core/error.hpp>
#include <vaelib/io/dtype.hpp>
#include <vaelib/io/file.hpp>
#include <vaelib/io/safetensors_header.hpp>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

namespace vaelib::inline VAELIB_ABI {

/// Longer headers are neither read nor written unless asked for. (The reference stops at 100 MB.)
inline constexpr std::uint64_t safetensors_header_limit = 16'000'000;

/// An open file. Several threads may read from one at the same time.
template <class = void>
class BasicSafetensorsFile {
 public:
  explicit BasicSafetensorsFile(const std::string& path, std::uint64_t header_limit = safetensors_header_limit)
      : BasicSafetensorsFile(InputFile(path), header_limit) {}
  explicit BasicSafetensorsFile(InputFile input, std::uint64_t header_limit = safetensors_header_limit)
      : file(std::move(input)) {
    const std::string json = read_header(header_limit);
    first_byte = 8 + json.size();
    header = parse_safetensors_header(json, file.size() - first_byte, file.path());
  }

  const InputFile& input() const { return file; }
  const Metadata& metadata() const { return header.metadata; }
  /// In the order of the file.
  const std::vector<TensorInfo>& tensors() const { return header.tensors; }

  /// nullptr where no tensor has this name.
  const TensorInfo* find(std::string_view name) const {
    std::size_t low = 0, high = header.by_name.size();
    while (low < high) {
      const std::size_t middle = (low + high) / 2;
      const int order = header.tensors[header.by_name[middle]].name.compare(name);
      if (order == 0) return &header.tensors[header.by_name[middle]];
      (order < 0 ? low : high) = order < 0 ? middle + 1 : middle;
    }
    return nullptr;
  }

  /// Reads a tensor of any type, converted to float. Its shape is the caller's to check, its count is checked here.
  void read(std::string_view name, std::span<float> to) const {
    const TensorInfo& info = checked(name, to.size());
    if (info.dtype == Dtype::f32) return file.read_at(first_byte + info.begin, to.data(), to.size_bytes());
    std::array<char, 16384> buffer;
    const std::size_t width = dtype_size(info.dtype);
    for (std::size_t done = 0; done < to.size();) {
      const std::size_t part = std::min(buffer.size() / width, to.size() - done);
      file.read_at(first_byte + info.begin + done * width, buffer.data(), part * width);
      to_float(info.dtype, buffer.data(), to.data() + done, part);
      done += part;
    }
  }
  /// Reads a tensor that must have the type of T.
  template <class T>
  void read_exactly(std::string_view name, std::span<T> to) const {
    read_raw(name, dtype_of<T>(), to.size(), to.data());
  }
  /// The same for `count` values of a type that is known at run time only.
  void read_raw(std::string_view name, Dtype dtype, std::size_t count, void* to) const {
    const TensorInfo& info = checked(name, count);
    if (info.dtype != dtype)
      fail(file.path(), ": tensor ", shown(name), ": expected the type ", dtype_name(dtype), ", found ",
           dtype_name(info.dtype));
    file.read_at(first_byte + info.begin, to, count * dtype_size(dtype));
  }

 private:
  const TensorInfo& checked(std::string_view name, std::size_t count) const {
    const TensorInfo* info = find(name);
    if (!info) fail(file.path(), ": has no tensor ", shown(name));
    if (info->count() != count)
      fail(file.path(), ": tensor ", shown(name), ": expected ", count, " values, found the shape ",
           shape_text(info->shape));
    return *info;
  }

  std::string read_header(std::uint64_t limit) const {
    if (file.size() < 9) fail(file.path(), ": is no safetensors file: it has only ", file.size(), " bytes");
    std::uint64_t length = 0;
    char first = 0;
    file.read_at(0, &length, 8);
    file.read_at(8, &first, 1);
    if (first != '{' || length > limit) refuse_pickle();
    if (first != '{') fail(file.path(), ": byte 8: is no safetensors file: its header must begin with '{'");
    if (length > limit) fail(file.path(), ": byte 0: a header of ", length, " bytes is above the limit of ", limit);
    if (length > file.size() - 8)
      fail(file.path(), ": byte 0: is truncated: the header needs ", length, " bytes, found ", file.size() - 8);
    std::string json(static_cast<std::size_t>(length), '\0');
    file.read_at(8, json.data(), json.size());
    return json;
  }

  void refuse_pickle() const {
    std::array<unsigned char, 4> magic{};
    file.read_at(0, magic.data(), magic.size());
    const bool zip = magic[0] == 'P' && magic[1] == 'K' && magic[2] == 3 && magic[3] == 4;
    const bool pickle = magic[0] == 0x80 && magic[1] >= 1 && magic[1] <= 5;
    if (zip || pickle)
      fail(file.path(), ": is a pickle (torch.save), which can run code and is never read; convert it by ",
           "vaelib's examples/pt_to_safetensors.py");
  }

  InputFile file;
  std::uint64_t first_byte = 0;
  SafetensorsHeader header;
};

using SafetensorsFile = BasicSafetensorsFile<>;

/// A tensor in memory that is to be written; `data` has as many bytes as dtype and shape need, in C order.
struct SafetensorsView {
  std::string name;
  Dtype dtype = Dtype::f32;
  std::vector<std::int64_t> shape;
  const void* data = nullptr;

  [[gnu::cold]] std::size_t bytes() const {
    const std::optional<std::uint64_t> count = tensor_bytes(dtype, shape);
    if (!count) fail("tensor ", shown(name), " has the impossible shape ", shape_text(shape));
    return static_cast<std::size_t>(*count);
  }

  /// Of a contiguous container, which must stay alive and unmoved until the file is written.
  static SafetensorsView of(std::string name, std::vector<std::int64_t> shape, const auto& values) {
    constexpr Dtype dtype = dtype_of<std::remove_cvref_t<decltype(*values.data())>>();
    if (tensor_bytes(dtype, shape) != values.size() * dtype_size(dtype))
      fail("tensor ", shown(name), ": the shape ", shape_text(shape), " does not have ", values.size(), " values");
    return {std::move(name), dtype, std::move(shape), values.data()};
  }
};

/// The order in which the reference implementation writes tensors.
template <class = void>
[[gnu::cold]] void sort_for_safetensors(std::vector<SafetensorsView>& tensors) {
  detail::sort_by<SafetensorsView>(tensors, [](const SafetensorsView& a, const SafetensorsView& b) {
    return a.dtype != b.dtype ? a.dtype > b.dtype : a.name < b.name;
  });
}

namespace detail {
/// Adds separator and quoted text to a header.
[[gnu::cold]] inline void add_text(std::string& header, std::string_view separator, std::string_view text, const std::string& path) {
  if (!is_utf8(text)) fail(path, ": the text ", shown(text), " is not valid UTF-8");
  header += separator;
  header += json_quote(text);
}
}  // namespace detail

/// The bytes of a file before its first tensor, for tensors in this order: byte for byte what the reference
/// implementation writes. `path` is for errors.
template <class = void>
[[gnu::cold]] std::string safetensors_prefix(const std::vector<SafetensorsView>& tensors, const Metadata& metadata, const std::string& path) {
  detail::indices_by_name(tensors, path);
  std::string header(8, '\0');  // the length is known at the end
  header += '{';
  for (const auto& [key, value] : metadata) {
    detail::add_text(header, header.size() == 9 ? "\"__metadata__\":{" : ",", key, path);
    detail::add_text(header, ":", value, path);
  }
  if (!metadata.empty()) header += '}';
  std::uint64_t position = 0;
  for (const SafetensorsView& tensor : tensors) {
    if (tensor.name == "__metadata__") fail(path, ": no tensor can have the name __metadata__");
    detail::add_text(header, header.size() > 9 ? "," : "", tensor.name, path);
    header += text(":{\"dtype\":\"", dtype_name(tensor.dtype), "\",\"shape\":", shape_text(tensor.shape), ",\"data_offsets\":[", position, ',',
                   position + tensor.bytes(), "]}");
    position += tensor.bytes();
  }
  header += '}';
  header.resize((header.size() + 7) / 8 * 8, ' ');
  const std::uint64_t length = header.size() - 8;
  if (length > safetensors_header_limit)
    fail(path, ": a header of ", length, " bytes is above the limit of ", safetensors_header_limit);
  std::memcpy(header.data(), &length, 8);
  return header;
}

/// Writes tensors and metadata, straight from their memory, and replaces the file atomically.
template <class = void>
[[gnu::cold]] void safetensors_write(const std::string& path, std::vector<SafetensorsView> tensors, const Metadata& metadata = {}) {
  sort_for_safetensors(tensors);
  const std::string prefix = safetensors_prefix(tensors, metadata, path);
  AtomicFile file(path);
  file.write(prefix.data(), prefix.size());
  for (const SafetensorsView& tensor : tensors) file.write(tensor.data, tensor.bytes());
  file.flush_and_close();
  file.publish();
}

}  // namespace vaelib::inline VAELIB_ABI
