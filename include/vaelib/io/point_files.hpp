// Files of points in space, a set each: .ply (Stanford polygon files) and .xyz (text).
//
//   .ply   a header in lines, then the elements; "ascii", "binary_little_endian" or "binary_big_endian". `vertex` has to be the
//          first element and to have no lists. Its x, y and z are read; its other properties and other elements are skipped.
//   .xyz   a point a line: x, y and z, parted by spaces, tabs or commas. Further columns are numbers that are skipped, as many in
//          each line. '#' begins a comment; empty lines are fine.
//
// A coordinate that is not finite is an Error that says where. Counts are checked against the size of the file before memory is
// taken.
#pragma once

#include <vaelib/core/error.hpp>
#include <vaelib/io/dtype.hpp>
#include <vaelib/io/file.hpp>
#include <vaelib/io/json.hpp>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace vaelib::inline VAELIB_ABI {

namespace detail {

inline constexpr std::uint64_t largest_point_file = std::uint64_t{1} << 33;  // bytes

/// Text, line by line and word by word.
class PointLines {
 public:
  std::int64_t line = 0;  ///< the one that was read last, from 1

  PointLines(const std::string& of, std::string_view content) : path(of), rest(content) {}

  /// The next line without its end (LF or CRLF); false at the end of the file.
  bool next(std::string_view& text) {
    if (rest.empty()) return false;
    const std::size_t end = std::min(rest.find('\n'), rest.size());
    text = rest.substr(0, end);
    rest.remove_prefix(std::min(end + 1, rest.size()));
    if (text.ends_with('\r')) text.remove_suffix(1);
    ++line;
    return true;
  }
  static std::string_view word(std::string_view& text, std::string_view between = " \t") {
    const std::size_t begin = std::min(text.find_first_not_of(between), text.size());
    const std::size_t end = std::min(text.find_first_of(between, begin), text.size());
    const std::string_view found = text.substr(begin, end - begin);
    text.remove_prefix(end);
    return found;
  }
  double number(std::string_view word) const {
    std::string_view digits = word;
    if (digits.starts_with('+')) digits.remove_prefix(1);
    double value = 0;
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
    if (word.empty() || error != std::errc() || end != digits.data() + digits.size()) refuse("a number", word);
    return value;
  }
  float coordinate(std::string_view word) const {
    const auto value = static_cast<float>(number(word));
    if (!std::isfinite(value)) refuse("a finite coordinate", word);
    return value;
  }
  [[noreturn]] void refuse(std::string_view expected, std::string_view found) const {
    fail(path, ": line ", line, ": expected ", expected, ", found ", shown(found.substr(0, 80)));
  }
  std::string_view left() const { return rest; }

 private:
  const std::string& path;
  std::string_view rest;
};

class PlyParser {
 public:
  PlyParser(const std::string& of, std::string_view content) : path(of), lines(of, content) {}

  std::vector<float> parse() {
    read_header();
    return format == "ascii" ? text_vertices() : binary_vertices();
  }

 private:
  struct Property {
    Dtype type;
    int axis;  // 0, 1, 2: x, y, z; -1: skipped
  };

  void read_header() {
    std::string_view line;
    if (!lines.next(line) || line != "ply") fail(path, ": is no .ply file: its first line is not 'ply'");
    for (int elements = 0;;) {
      if (!lines.next(line)) fail(path, ": is truncated in its header: it has no line 'end_header'");
      const std::string_view whole = line, keyword = PointLines::word(line);
      if (keyword == "end_header") break;
      if (keyword == "comment" || keyword == "obj_info") continue;
      if (keyword == "format") {
        const std::string_view name = PointLines::word(line), version = PointLines::word(line);
        if (!format.empty() || (name != "ascii" && name != "binary_little_endian" && name != "binary_big_endian") || version != "1.0") lines.refuse("one format ascii, binary_little_endian or binary_big_endian, of version 1.0", whole);
        format = name;
      } else if (keyword == "element") {
        const std::string_view name = PointLines::word(line), count = PointLines::word(line);
        std::uint64_t n = 0;
        const auto [end, error] = std::from_chars(count.data(), count.data() + count.size(), n);
        if (count.empty() || error != std::errc() || end != count.data() + count.size()) lines.refuse("a name and a count", whole);
        if ((name == "vertex") != (elements == 0)) lines.refuse("vertex to be the first element, and once", whole);
        if (elements++ == 0) vertices = n;
        others = others || (elements > 1 && n > 0);
      } else if (keyword == "property" && elements > 0) {
        if (elements == 1) add_property(line, whole);
      } else {
        lines.refuse("a line of a header", whole);
      }
    }
    if (format.empty()) fail(path, ": its header names no format");
    int axes = 0;
    for (const auto& property : properties) axes += property.axis >= 0 ? 1 << (4 * property.axis) : 0;
    if (axes != 0x111) fail(path, ": its vertices have not x, y and z, each once");
  }
  void add_property(std::string_view line, std::string_view whole) {
    static constexpr std::pair<std::string_view, Dtype> known[] = {
        {"char", Dtype::i8},    {"int8", Dtype::i8},    {"uchar", Dtype::u8}, {"uint8", Dtype::u8},   {"short", Dtype::i16},  {"int16", Dtype::i16},  {"ushort", Dtype::u16}, {"uint16", Dtype::u16},
        {"int", Dtype::i32},    {"int32", Dtype::i32},  {"uint", Dtype::u32}, {"uint32", Dtype::u32}, {"float", Dtype::f32}, {"float32", Dtype::f32}, {"double", Dtype::f64}, {"float64", Dtype::f64}};
    const std::string_view type = PointLines::word(line), name = PointLines::word(line);
    const auto found = std::find_if(std::begin(known), std::end(known), [&](const auto& k) { return k.first == type; });
    if (found == std::end(known) || name.empty()) lines.refuse("a property of a vertex: one number", whole);
    if (properties.size() == 1000) lines.refuse("at most 1000 properties", whole);
    properties.push_back({found->second, name == "x" ? 0 : name == "y" ? 1 : name == "z" ? 2 : -1});
  }

  std::vector<float> text_vertices() {
    if (vertices > (lines.left().size() + 1) / (2 * properties.size()))
      fail(path, ": declares ", vertices, " vertices of ", properties.size(), " numbers, more than the ", lines.left().size(), " bytes behind its header can hold");
    std::vector<float> points(static_cast<std::size_t>(vertices) * 3);
    std::string_view line;
    for (std::uint64_t v = 0; v < vertices; ++v) {
      if (!lines.next(line)) fail(path, ": declares ", vertices, " vertices, ends after ", v);
      for (const auto& property : properties) {
        const std::string_view word = PointLines::word(line);
        if (property.axis < 0) {
          lines.number(word);
        } else {
          points[v * 3 + std::size_t(property.axis)] = lines.coordinate(word);
        }
      }
      if (const auto more = PointLines::word(line); !more.empty()) lines.refuse(text(properties.size(), " numbers"), more);
    }
    while (!others && lines.next(line))
      if (const auto more = PointLines::word(line); !more.empty()) lines.refuse("nothing behind the vertices", more);
    return points;
  }
  std::vector<float> binary_vertices() const {
    std::size_t stride = 0;
    for (const auto& property : properties) stride += dtype_size(property.type);
    const std::string_view bytes = lines.left();
    if (vertices > bytes.size() / stride || (!others && vertices * stride != bytes.size()))
      fail(path, ": declares ", vertices, " vertices of ", stride, " bytes, found ", bytes.size(), " bytes behind its header");
    std::vector<float> points(static_cast<std::size_t>(vertices) * 3);
    const char* from = bytes.data();
    for (std::uint64_t v = 0; v < vertices; ++v)
      for (const auto& property : properties) {
        const std::size_t size = dtype_size(property.type);
        if (property.axis >= 0) {
          char value[8];
          std::copy_n(from, size, value);
          if (format == "binary_big_endian") std::reverse(value, value + size);
          float& to = points[v * 3 + std::size_t(property.axis)];
          to_float(property.type, value, &to, 1);
          if (!std::isfinite(to)) fail(path, ": vertex ", v, ": expected a finite coordinate ", "xyz"[property.axis], ", found ", to);
        }
        from += size;
      }
    return points;
  }

  const std::string& path;
  PointLines lines;
  std::string format{};
  std::uint64_t vertices = 0;
  bool others = false;
  std::vector<Property> properties{};
};

inline void check_points_in_space(const std::string& path, std::span<const float> points) {
  if (points.size() % 3 != 0) fail(path, ": ", points.size(), " numbers are no points of x, y and z");
}

}  // namespace detail

/// x, y, z of every point.
[[gnu::cold]] inline std::vector<float> read_ply(const InputFile& file) {
  const std::string content = read_file(file, detail::largest_point_file);
  return detail::PlyParser(file.path(), content).parse();
}
inline std::vector<float> read_ply(const std::string& path) { return read_ply(InputFile(path)); }

/// x, y, z of every point.
[[gnu::cold]] inline std::vector<float> read_xyz(const InputFile& file) {
  constexpr std::string_view between = " \t,";
  const std::string content = read_file(file, detail::largest_point_file);
  detail::PointLines lines(file.path(), content);
  std::vector<float> points;
  std::string_view line;
  for (std::int64_t columns = 0; lines.next(line);) {
    line = line.substr(0, line.find('#'));
    std::int64_t found = 0;
    for (auto word = detail::PointLines::word(line, between); !word.empty(); word = detail::PointLines::word(line, between), ++found) {
      if (found < 3) {
        points.push_back(lines.coordinate(word));
      } else {
        lines.number(word);
      }
    }
    if (found == 0) continue;
    if (columns == 0) columns = found;
    if (found < 3 || found != columns) lines.refuse(columns < 3 ? "x, y and z" : text(columns, " numbers as in the first line"), text(found));
  }
  return points;
}
inline std::vector<float> read_xyz(const std::string& path) { return read_xyz(InputFile(path)); }

/// Writes points as x, y, z in floats, little-endian.
inline void write_ply(const std::string& path, std::span<const float> points) {
  detail::check_points_in_space(path, points);
  write_file_atomically(path, text("ply\nformat binary_little_endian 1.0\nelement vertex ", points.size() / 3, "\nproperty float x\nproperty float y\nproperty float z\nend_header\n"), points);
}

/// Writes a point a line; reading gives the same floats.
inline void write_xyz(const std::string& path, std::span<const float> points) {
  detail::check_points_in_space(path, points);
  std::string lines;
  char number[32];
  for (std::size_t k = 0; k < points.size(); ++k) {
    lines.append(number, std::to_chars(number, number + sizeof number, points[k]).ptr);
    lines += k % 3 == 2 ? '\n' : ' ';
  }
  write_file_atomically(path, lines);
}

}  // namespace vaelib::inline VAELIB_ABI
