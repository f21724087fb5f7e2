// What a page and its file of numbers are made of: escaped text, base64, JSON that is put together member by member.
#pragma once

#include <vaelib/io/json.hpp>
#include <vaelib/train/history.hpp>

#include <cmath>
#include <concepts>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace vaelib::inline VAELIB_ABI {
namespace report {

/// `text` with U+FFFD in place of every byte that is no UTF-8: names of files may be anything.
inline std::string as_utf8(std::string_view text) {
  std::string valid;
  while (!text.empty()) {
    const std::size_t length = utf8_length(text);
    valid += length > 0 ? text.substr(0, length) : std::string_view("\xEF\xBF\xBD");
    text.remove_prefix(length > 0 ? length : 1);
  }
  return valid;
}

/// `text` for the content of an element of HTML or SVG, or for an attribute in quotes. Characters that HTML does not
/// have (NUL and other controls) become spaces.
inline std::string escaped(std::string_view text) {
  std::string safe;
  for (const char c : as_utf8(text)) {
    const bool control = (c >= 0 && c < ' ' && c != '\n' && c != '\t') || c == '\x7f';
    switch (c) {
      case '&':
        safe += "&amp;";
        break;
      case '<':
        safe += "&lt;";
        break;
      case '>':
        safe += "&gt;";
        break;
      case '"':
        safe += "&quot;";
        break;
      case '\'':
        safe += "&#39;";
        break;
      default:
        safe += control ? ' ' : c;
    }
  }
  return safe;
}

/// RFC 4648, section 4.
inline std::string base64(std::span<const std::uint8_t> bytes) {
  constexpr char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string encoded;
  encoded.reserve((bytes.size() + 2) / 3 * 4);
  for (std::size_t i = 0; i < bytes.size(); i += 3) {
    const std::size_t there = std::min<std::size_t>(3, bytes.size() - i);
    std::uint32_t group = 0;
    for (std::size_t k = 0; k < 3; ++k) group = group << 8 | (k < there ? bytes[i + k] : 0u);
    for (std::size_t k = 0; k < 4; ++k) encoded += k <= there ? digits[group >> (18 - 6 * k) & 63] : '=';
  }
  return encoded;
}

/// A value of JSON (RFC 8259), kept as its text. Numbers that are not finite are null.
class Json {
 public:
  Json(std::floating_point auto number)
      : written(std::isfinite(number) ? vaelib::detail::shortest(double(number)) : "null") {}
  Json(std::integral auto number) : written(std::to_string(number)) {}
  Json(bool value) : written(value ? "true" : "false") {}
  Json(std::string_view value) : written(json_quote(as_utf8(value))) {}
  Json(const std::string& value) : Json(std::string_view(value)) {}
  Json(const char* value) : Json(std::string_view(value)) {}
  template <class T>
  Json(const std::vector<T>& values) : written("[") {
    for (const T& value : values) written += (written.size() > 1 ? ", " : "") + Json(value).written;
    written += ']';
  }

  using Member = std::pair<std::string_view, Json>;
  static Json object(std::initializer_list<Member> members = {}) { return Json(members, ", "); }
  /// With a line for each member.
  static Json lines(std::initializer_list<Member> members = {}) { return Json(members, ",\n  "); }

  /// One more member of an object, the last.
  Json& set(std::string_view name, const Json& value) {
    const bool in_lines = between != ", ", first = written == "{}";
    const std::string_view end = in_lines && !first ? "\n}" : "}";
    written.resize(written.size() - end.size());
    written += first ? (in_lines ? "\n  " : "") : between;
    written += json_quote(as_utf8(name)) + ": ";
    for (const char c : value.written) written += c == '\n' ? "\n  " : std::string(1, c);  // strings have no line ends
    written += in_lines ? "\n}" : "}";
    return *this;
  }

  const std::string& text() const { return written; }

 private:
  Json(std::initializer_list<Member> members, std::string_view separator) : written("{}"), between(separator) {
    for (const auto& [name, value] : members) set(name, value);
  }

  std::string written;
  std::string_view between{};
};

/// A number for the eye: three or four digits that count, whole ones from 10,000 on in groups.
inline std::string shown_number(double number) {
  char digits[40];
  const double size = std::abs(number);
  const bool whole = number == std::floor(number) && size < 1e15;
  std::snprintf(digits, sizeof digits, whole ? "%.0f" : size >= 100 ? "%.1f" : size >= 1 ? "%.2f" : "%.3g", number);
  std::string shown = digits;
  if (whole && size >= 10'000)
    for (std::size_t end = shown.size(); end > 3 + (number < 0); end -= 3) shown.insert(end - 3, ",");
  return shown;
}

}  // namespace report
}  // namespace vaelib::inline VAELIB_ABI
