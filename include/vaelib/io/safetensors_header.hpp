// The header of a safetensors file, a text in JSON: parsed and checked in full.
// https://github.com/huggingface/safetensors
//
// What is a template of nothing (template <class = void>) is so to be compiled only where it is used.
//
// Stricter than the reference: duplicate and unknown keys are refused, and so are types that are not in Dtype and shapes of more
// than 64 axes.
#pragma once

#include <vaelib/core/error.hpp>
#include <vaelib/io/dtype.hpp>
#include <vaelib/io/json.hpp>

#include <algorithm>
#include <array>
#include <cstdint>
#include <limits>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace vaelib::inline VAELIB_ABI {

using Metadata = std::map<std::string, std::string>;

/// A tensor in a file: C order, in bytes [begin, end) of the data behind the header.
struct TensorInfo {
  std::string name;
  Dtype dtype = Dtype::f32;
  std::vector<std::int64_t> shape;
  std::uint64_t begin = 0;
  std::uint64_t end = 0;

  std::uint64_t count() const { return (end - begin) / dtype_size(dtype); }
};

struct SafetensorsHeader {
  Metadata metadata;
  std::vector<TensorInfo> tensors;   // in the order of their data
  std::vector<std::size_t> by_name;  // their indices
};

/// Bytes of a tensor; none where an extent is negative or the product overflows.
[[gnu::cold]] inline std::optional<std::uint64_t> tensor_bytes(Dtype dtype, const std::vector<std::int64_t>& shape) {
  std::uint64_t bytes = dtype_size(dtype);
  for (const std::int64_t extent : shape) {
    if (extent < 0) return std::nullopt;
    const auto factor = static_cast<std::uint64_t>(extent);
    if (factor != 0 && bytes > std::numeric_limits<std::uint64_t>::max() / factor) return std::nullopt;
    bytes *= factor;
  }
  return bytes;
}

/// [2,3,4], as the header has it.
[[gnu::cold]] inline std::string shape_text(const std::vector<std::int64_t>& shape) {
  std::string result = "[";
  for (const std::int64_t extent : shape) result += text(result.size() > 1 ? "," : "", extent);
  return result + ']';
}

namespace detail {

/// The indices of `items` in the order of `less`. The sort is compiled once for all T: vae.hpp stays quick to include.
[[gnu::cold]] inline std::vector<std::size_t> sorted_indices(std::size_t count, const void* context,
                                               bool (*less)(const void*, std::size_t, std::size_t)) {
  std::vector<std::size_t> indices(count);
  for (std::size_t i = 0; i < count; ++i) indices[i] = i;
  const auto before = [=](std::size_t a, std::size_t b) { return less(context, a, b); };
  std::size_t *first = indices.data(), *last = first + count;
  std::make_heap(first, last, before);  // a third of what std::sort compiles
  std::sort_heap(first, last, before);
  return indices;
}
template <class T>
[[gnu::cold]] std::vector<std::size_t> sorted_indices(const std::vector<T>& items, bool (*less)(const T&, const T&)) {
  const auto context = std::pair(items.data(), less);
  return sorted_indices(items.size(), &context, [](const void* given, std::size_t a, std::size_t b) {
    const auto& [data, compare] = *static_cast<const std::pair<const T*, bool (*)(const T&, const T&)>*>(given);
    return compare(data[a], data[b]);
  });
}
template <class T>
[[gnu::cold]] void sort_by(std::vector<T>& items, bool (*less)(const T&, const T&)) {
  std::vector<T> sorted;
  sorted.reserve(items.size());
  for (const std::size_t i : sorted_indices(items, less)) sorted.push_back(std::move(items[i]));
  items = std::move(sorted);
}

/// The indices of the tensors (TensorInfo or SafetensorsView) by name; fails where two have the same.
template <class T>
[[gnu::cold]] std::vector<std::size_t> indices_by_name(const std::vector<T>& tensors, std::string_view path) {
  const auto order = sorted_indices<T>(tensors, [](const T& a, const T& b) { return a.name < b.name; });
  for (std::size_t i = 1; i < order.size(); ++i)
    if (tensors[order[i - 1]].name == tensors[order[i]].name)
      fail(path, ": two tensors have the name ", shown(tensors[order[i]].name));
  return order;
}

template <class = void>
class SafetensorsHeaderParser {
 public:
  SafetensorsHeaderParser(std::string_view header, std::string_view path) : json(header, path, 8), file_name(path) {}

  SafetensorsHeader parse(std::uint64_t data_size) {
    bool has_metadata = false;
    json.members([&](const std::string& name) {
      if (name != "__metadata__") return parse_tensor(name);
      if (std::exchange(has_metadata, true)) json.refuse("a second __metadata__");
      parse_metadata();
    });
    json.expect_end();
    sort_by<TensorInfo>(result.tensors, [](const TensorInfo& a, const TensorInfo& b) {
      return a.begin != b.begin ? a.begin < b.begin : a.end != b.end ? a.end < b.end : a.name < b.name;
    });
    result.by_name = indices_by_name(result.tensors, file_name);
    check_layout(data_size);
    return std::move(result);
  }

 private:
  void parse_metadata() {
    json.members([&](const std::string& key) {
      if (result.metadata.contains(key)) json.refuse(text("a second value of the key ", shown(key)));
      result.metadata.emplace(key, json.string());
    });
  }

  void parse_tensor(const std::string& name) {
    TensorInfo info;
    info.name = name;
    std::array<bool, 3> seen{};
    json.members([&](const std::string& key) {
      constexpr std::array<std::string_view, 3> keys{"dtype", "shape", "data_offsets"};
      const auto which = static_cast<std::size_t>(std::find(keys.begin(), keys.end(), key) - keys.begin());
      if (which == keys.size()) json.refuse(text("expected dtype, shape or data_offsets, found the key ", shown(key)));
      if (std::exchange(seen[which], true)) json.refuse(text("a second ", key, " of tensor ", shown(name)));
      if (which == 0) info.dtype = parse_dtype();
      if (which == 1) info.shape = parse_shape();
      if (which == 2) parse_offsets(info);
    });
    if (!(seen[0] && seen[1] && seen[2]))
      json.refuse(text("tensor ", shown(name), " lacks one of dtype, shape and data_offsets"));
    result.tensors.push_back(std::move(info));
  }

  Dtype parse_dtype() {
    const std::string name = json.string();
    const std::optional<Dtype> dtype = dtype_named(name);
    if (!dtype)
      json.refuse(
          text("expected one of BOOL, U8 to U64, I8 to I64, F16, BF16, F32 and F64, found the type ", shown(name)));
    return *dtype;
  }

  std::vector<std::int64_t> parse_shape() {
    constexpr std::size_t most_axes = 64;  // as in PyTorch
    std::vector<std::int64_t> shape;
    json.elements([&] {
      const std::uint64_t extent = json.unsigned_integer();
      if (shape.size() == most_axes) json.refuse(text("a shape of more than ", most_axes, " axes"));
      if (extent >> 63) json.refuse(text("an extent of ", extent, " is above 2^63 - 1"));
      shape.push_back(static_cast<std::int64_t>(extent));
    });
    return shape;
  }

  void parse_offsets(TensorInfo& info) {
    std::size_t count = 0;
    json.elements([&] {
      if (count == 2) json.wrong("two data_offsets");
      (count++ == 0 ? info.begin : info.end) = json.unsigned_integer();
    });
    if (count != 2) json.refuse("expected two data_offsets, found fewer");
  }

  /// Every byte behind the header belongs to exactly one tensor, and every tensor has the bytes of its shape.
  void check_layout(std::uint64_t data_size) {
    std::uint64_t expected = 0;
    for (const TensorInfo& info : result.tensors) {
      const std::string where = text(file_name, ": tensor ", shown(info.name), ": ");
      if (info.begin != expected)
        fail(where, "expected data_offsets to begin at ", expected, ", where the one before ends, found ", info.begin);
      if (info.end < info.begin) fail(where, "data_offsets end at ", info.end, " before they begin at ", info.begin);
      const std::optional<std::uint64_t> bytes = tensor_bytes(info.dtype, info.shape);
      if (!bytes) fail(where, "the product of its extents is above 2^64 - 1");
      if (*bytes != info.end - info.begin)
        fail(where, "its type and shape need ", *bytes, " bytes, its data_offsets span ", info.end - info.begin);
      expected = info.end;
    }
    if (expected > data_size)
      fail(file_name, ": is truncated: the tensors need ", expected, " bytes behind the header, the file has ",
           data_size);
    if (expected < data_size)
      fail(file_name, ": expected ", expected, " bytes of tensors behind the header, found ", data_size);
  }

  JsonCursor json;
  std::string_view file_name;
  SafetensorsHeader result;
};

}  // namespace detail

/// Parses and checks a header that has `data_size` bytes behind it; `path` is for errors.
template <class = void>
[[gnu::cold]] SafetensorsHeader parse_safetensors_header(std::string_view header, std::uint64_t data_size, std::string_view path) {
  return detail::SafetensorsHeaderParser<>(header, path).parse(data_size);
}

}  // namespace vaelib::inline VAELIB_ABI
