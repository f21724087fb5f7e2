// NumPy's files: .npy, one array, and .npz, a zip file of them.
//
//   .npy   \x93NUMPY | version (1, 2 or 3), 0 | length of the header, u16 or (from version 2) u32 | header | values
//   header {'descr': '<f4', 'fortran_order': False, 'shape': (60000, 28, 28), }      one Python dict, nothing else
//
// Values: floats of 2, 4, 8 bytes, integers of 1, 2, 4, 8 bytes and booleans, little-endian, in C order; read as float. What
// would run code (object arrays are pickles) or is laid out otherwise is refused. Sizes are checked against the file before
// memory is taken; what is compressed inflates to what its array declares and no further. (Link: -lz)
#pragma once

#include <vaelib/core/error.hpp>
#include <vaelib/io/dtype.hpp>
#include <vaelib/io/file.hpp>
#include <vaelib/io/json.hpp>

#include <zlib.h>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace vaelib::inline VAELIB_ABI {

struct NpyArray {
  std::vector<std::int64_t> shape;
  std::vector<float> values;
};

namespace detail {

inline constexpr std::size_t npy_most_axes = 32, npy_longest_header = 65536;

struct NpyHeader {
  Dtype dtype = Dtype::f32;
  std::vector<std::int64_t> shape;
  std::uint64_t count = 1;

  std::uint64_t bytes() const { return count * dtype_size(dtype); }
};

/// The dict of a header: three keys in any order, each once.
class NpyHeaderParser {
 public:
  NpyHeaderParser(std::string_view header, const std::string& of) : text(header), path(of) {}

  NpyHeader parse() {
    NpyHeader header;
    unsigned seen = 0;
    expect('{');
    while (!accept('}')) {
      const std::string_view key = quoted();
      expect(':');
      const unsigned mark = key == "descr" ? 1 : key == "fortran_order" ? 2 : key == "shape" ? 4 : 0;
      if (mark == 0 || (seen & mark)) refuse("the keys 'descr', 'fortran_order' and 'shape', each once");
      seen |= mark;
      if (mark == 1) header.dtype = dtype_of_descr(quoted());
      if (mark == 2 && boolean()) vaelib::fail(path, ": is in Fortran order; save numpy.ascontiguousarray(x) instead");
      if (mark == 4) header.shape = extents();
      if (!accept(',')) {
        expect('}');
        break;
      }
    }
    skip_spaces();
    if (place != text.size() || seen != 7) refuse("the keys 'descr', 'fortran_order' and 'shape', and nothing else");
    bool empty = false;
    for (const std::int64_t extent : header.shape) {
      const auto factor = static_cast<std::uint64_t>(extent);
      empty = empty || factor == 0;
      if (factor != 0 && header.count > (std::uint64_t{1} << 59) / factor) vaelib::fail(path, ": the product of its extents is above 2^59");
      header.count *= std::max<std::uint64_t>(factor, 1);
    }
    if (empty) header.count = 0;
    return header;
  }

 private:
  [[noreturn]] void refuse(std::string_view expected) const {
    vaelib::fail(path, ": byte ", place, " of the header: expected ", expected);
  }
  void skip_spaces() {
    while (place < text.size() && (text[place] == ' ' || text[place] == '\n')) ++place;
  }
  bool accept(char c) {
    skip_spaces();
    if (place == text.size() || text[place] != c) return false;
    ++place;
    return true;
  }
  void expect(char c) {
    if (!accept(c)) refuse(std::string{'\'', c, '\''});
  }
  std::string_view quoted() {
    skip_spaces();
    const char mark = place < text.size() ? text[place] : ' ';
    if (mark == '[') vaelib::fail(path, ": is an array of records; save its columns one by one");
    const std::size_t end = mark == '\'' || mark == '"' ? text.find(mark, place + 1) : std::string_view::npos;
    if (end == std::string_view::npos) refuse("a string");
    const std::string_view result = text.substr(place + 1, end - place - 1);
    place = end + 1;
    return result;
  }
  bool boolean() {
    skip_spaces();
    for (const std::string_view word : {"False", "True"})
      if (text.substr(place).starts_with(word)) {
        place += word.size();
        return word == "True";
      }
    refuse("True or False");
  }
  std::vector<std::int64_t> extents() {
    std::vector<std::int64_t> result;
    expect('(');
    while (!accept(')')) {
      if (result.size() == npy_most_axes) refuse("at most 32 axes");
      skip_spaces();
      std::int64_t value = 0;
      const std::size_t first = place;
      for (; place < text.size() && text[place] >= '0' && text[place] <= '9'; ++place) {
        if (value > (std::numeric_limits<std::int64_t>::max() - 9) / 10) refuse("an extent below 2^63");
        value = value * 10 + (text[place] - '0');
      }
      if (place == first || (text[first] == '0' && place > first + 1)) refuse("an extent");
      result.push_back(value);
      if (!accept(',')) {
        if (result.size() == 1) refuse("',' behind a single extent");  // (3) is no tuple
        expect(')');
        break;
      }
    }
    return result;
  }
  Dtype dtype_of_descr(std::string_view descr) const {
    static constexpr std::pair<std::string_view, Dtype> known[] = {
        {"<f2", Dtype::f16}, {"<f4", Dtype::f32}, {"<f8", Dtype::f64}, {"|b1", Dtype::boolean}, {"|u1", Dtype::u8}, {"|i1", Dtype::i8},
        {"<u2", Dtype::u16}, {"<i2", Dtype::i16}, {"<u4", Dtype::u32}, {"<i4", Dtype::i32},     {"<u8", Dtype::u64}, {"<i8", Dtype::i64}};
    for (const auto& [name, dtype] : known)
      if (name == descr) return dtype;
    if (descr.starts_with("|O")) vaelib::fail(path, ": holds Python objects, a pickle that can run code, and is never read");
    if (descr.starts_with(">")) vaelib::fail(path, ": is big-endian (", shown(descr), "); save x.astype(x.dtype.newbyteorder('<')) instead");
    vaelib::fail(path, ": has values of type ", shown(descr), "; expected floats, integers or booleans");
  }

  std::string_view text;
  const std::string& path;
  std::size_t place = 0;
};

/// One array from a source of bytes: `take(to, count)` gives the next ones or throws, `left` is how many there are in all.
/// More than `most_values` are refused before memory is taken.
template <class Take>
NpyArray read_npy_from(Take&& take, std::uint64_t left, std::uint64_t most_values, const std::string& path) {
  std::uint8_t start[12] = {};
  if (left < 10) fail(path, ": is no .npy file: it has only ", left, " bytes");
  take(start, 10);
  if (std::string_view(reinterpret_cast<char*>(start), 6) != "\x93NUMPY") fail(path, ": byte 0: is no .npy file: it does not begin with \\x93NUMPY");
  if (start[6] < 1 || start[6] > 3 || start[7] != 0) fail(path, ": byte 6: has version ", int{start[6]}, '.', int{start[7]}, "; 1.0 to 3.0 are known");
  std::uint64_t length = start[8] | std::uint64_t{start[9]} << 8, begin = 10;
  if (start[6] > 1) {
    begin = 12;
    if (left < begin) fail(path, ": is truncated in its header");
    take(start + 10, 2);
    length |= std::uint64_t{start[10]} << 16 | std::uint64_t{start[11]} << 24;
  }
  if (length > npy_longest_header || length > left - begin)
    fail(path, ": byte 8: a header of ", length, " bytes; expected at most ", std::min<std::uint64_t>(npy_longest_header, left - begin));
  std::string text(static_cast<std::size_t>(length), '\0');
  take(text.data(), text.size());
  NpyHeader header = NpyHeaderParser(text, path).parse();
  if (header.bytes() != left - begin - length)
    fail(path, ": its shape needs ", header.bytes(), " bytes of values, found ", left - begin - length);
  if (header.count > most_values) fail(path, ": has ", header.count, " values; at most ", most_values, " are expected of so small a compressed file: save it by numpy.save");
  NpyArray array{std::move(header.shape), std::vector<float>(static_cast<std::size_t>(header.count))};
  const std::size_t width = dtype_size(header.dtype);
  std::vector<char> block(std::min<std::uint64_t>(header.bytes(), std::uint64_t{1} << 18));
  for (std::size_t done = 0; done < array.values.size();) {
    const std::size_t part = std::min(block.size() / width, array.values.size() - done);
    take(block.data(), part * width);
    to_float(header.dtype, block.data(), array.values.data() + done, part);
    done += part;
  }
  return array;
}

}  // namespace detail

inline NpyArray read_npy(const InputFile& file) {
  std::uint64_t position = 0;
  return detail::read_npy_from(
      [&](void* to, std::size_t count) {
        file.read_at(position, to, count);
        position += count;
      },
      file.size(), file.size(), file.path());
}
inline NpyArray read_npy(const std::string& path) { return read_npy(InputFile(path)); }

namespace detail {
/// What stands before the values of a .npy file.
[[gnu::cold]] inline std::string npy_header(const std::string& path, const char* descr, const std::vector<std::int64_t>& shape, std::uint64_t values) {
  std::uint64_t count = 1;
  std::string extents;
  for (const std::int64_t extent : shape) {
    count *= static_cast<std::uint64_t>(extent);
    extents += text(extents.empty() ? "" : " ", extent, ',');
  }
  if (count != values) fail(path, ": the shape (", extents, ") needs ", count, " values, found ", values);
  if (shape.size() > 1) extents.pop_back();
  std::string header = text("{'descr': '", descr, "', 'fortran_order': False, 'shape': (", extents, "), }");
  header.resize((10 + header.size() + 1 + 63) / 64 * 64 - 11, ' ');
  header += '\n';
  std::string start("\x93NUMPY\x01\x00", 8);
  start += static_cast<char>(header.size() & 255);
  start += static_cast<char>(header.size() >> 8);
  return start + header;
}
}  // namespace detail

/// Writes an array of 4-byte floats as NumPy does.
inline void write_npy(const std::string& path, const std::vector<std::int64_t>& shape, std::span<const float> values) {
  write_file_atomically(path, detail::npy_header(path, "<f4", shape, values.size()), values);
}

}  // namespace vaelib::inline VAELIB_ABI
