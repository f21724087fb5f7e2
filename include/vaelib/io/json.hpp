// The strict little JSON that file headers need: objects, arrays, strings and unsigned integers, read by a cursor that
// the caller steers. Nothing recurses and no tree is built, so hostile nesting or size costs nothing. RFC 8259.
#pragma once

#include <vaelib/core/error.hpp>

#include <cstdint>
#include <limits>
#include <string>
#include <string_view>

namespace vaelib::inline VAELIB_ABI {

/// Bytes of the UTF-8 sequence that `text` begins with; 0 where none does (overlong forms, surrogates and codes above
/// U+10FFFF are none).
inline std::size_t utf8_length(std::string_view text) {
  const auto is_in = [&](std::size_t at, unsigned low, unsigned high) {
    return at < text.size() && static_cast<unsigned char>(text[at]) >= low &&
           static_cast<unsigned char>(text[at]) <= high;
  };
  const auto follows = [&](std::size_t at) { return is_in(at, 0x80, 0xBF); };
  if (is_in(0, 0x00, 0x7F)) return 1;
  if (is_in(0, 0xC2, 0xDF)) return follows(1) ? 2 : 0;
  if (is_in(0, 0xE0, 0xEF)) {
    const unsigned low = is_in(0, 0xE0, 0xE0) ? 0xA0 : 0x80, high = is_in(0, 0xED, 0xED) ? 0x9F : 0xBF;
    return is_in(1, low, high) && follows(2) ? 3 : 0;
  }
  const unsigned low = is_in(0, 0xF0, 0xF0) ? 0x90 : 0x80, high = is_in(0, 0xF4, 0xF4) ? 0x8F : 0xBF;
  return is_in(0, 0xF0, 0xF4) && is_in(1, low, high) && follows(2) && follows(3) ? 4 : 0;
}

inline bool is_utf8(std::string_view text) {
  while (!text.empty()) {
    const std::size_t length = utf8_length(text);
    if (length == 0) return false;
    text.remove_prefix(length);
  }
  return true;
}

/// `text` (UTF-8) as a JSON string with its quotes; escapes only what must be.
[[gnu::cold]] inline std::string json_quote(std::string_view text) {
  constexpr std::string_view digits = "0123456789abcdef", controls = "\b\t\n\f\r", letters = "btnfr";
  std::string quoted = "\"";
  for (const char c : text) {
    const std::size_t control = controls.find(c);
    if (c == '"' || c == '\\') {
      quoted += '\\';
      quoted += c;
    } else if (control != std::string_view::npos) {
      quoted += '\\';
      quoted += letters[control];
    } else if (static_cast<unsigned char>(c) < 0x20) {
      quoted += "\\u00";
      quoted += digits[static_cast<unsigned char>(c) / 16];
      quoted += digits[static_cast<unsigned char>(c) % 16];
    } else {
      quoted += c;
    }
  }
  return quoted + '"';
}

/// A name out of a file, fit for one line of an error: quoted, escaped and not longer than a few words.
[[gnu::cold]] inline std::string shown(std::string_view name) {
  constexpr std::size_t limit = 80;
  std::size_t end = 0;
  while (end < name.size() && end < limit && utf8_length(name.substr(end)) > 0) end += utf8_length(name.substr(end));
  return json_quote(name.substr(0, end)) + (end < name.size() ? "..." : "");
}

class JsonCursor {
 public:
  /// Errors name the file and `origin` plus the offset in the text, which must stay alive.
  JsonCursor(std::string_view json, std::string_view file, std::uint64_t origin)
      : text(json), file_name(file), first_byte(origin) {}

  /// Calls member(key) for each member of an object; it must consume the value.
  void members(auto&& member) {
    expect('{');
    if (accept('}')) return;
    do {
      const std::string key = string();
      expect(':');
      member(key);
    } while (accept(','));
    expect('}');
  }
  /// Calls element() for each element of an array; it must consume it.
  void elements(auto&& element) {
    expect('[');
    if (accept(']')) return;
    do element();
    while (accept(','));
    expect(']');
  }
  std::string string() {
    expect('"');
    const std::size_t start = position - 1;
    std::string result;
    while (peek() != '"') {
      const std::size_t length = utf8_length(text.substr(position));
      if (length == 0 && position < text.size()) wrong("valid UTF-8");
      if (length == 0 || static_cast<unsigned char>(peek()) < 0x20) wrong("the end of the string");
      if (peek() == '\\') {
        append_escape(result);
      } else {
        result.append(text, position, length);
        position += length;
      }
    }
    ++position;
    token = start;
    return result;
  }
  std::uint64_t unsigned_integer() {
    constexpr std::uint64_t limit = std::numeric_limits<std::uint64_t>::max();
    skip_space();
    const std::size_t start = position;
    std::uint64_t value = 0;
    for (; is_digit(peek()); ++position) {
      const auto digit = static_cast<std::uint64_t>(peek() - '0');
      if (value > (limit - digit) / 10) wrong("an integer below 2^64");
      value = value * 10 + digit;
    }
    const bool leading_zero = position > start + 1 && text[start] == '0';
    if (position == start || leading_zero || peek() == '.' || peek() == 'e' || peek() == 'E')
      wrong("an unsigned integer without fraction, exponent or leading zero");
    token = start;
    return value;
  }
  /// To be called behind the value: only spaces may follow.
  void expect_end() {
    while (peek() == ' ') ++position;
    if (position < text.size()) wrong("nothing but spaces behind the end");
  }
  /// The text does not go on as it must.
  [[noreturn]] void wrong(std::string_view expected) const {
    fail(file_name, ": byte ", first_byte + position, ": expected ", expected, ", found ", found());
  }
  /// The string or number read last is well formed, but not right here.
  [[noreturn]] void refuse(std::string_view reason) const {
    fail(file_name, ": byte ", first_byte + token, ": ", reason);
  }

 private:
  static bool is_digit(char c) { return c >= '0' && c <= '9'; }
  char peek() const { return position < text.size() ? text[position] : '\0'; }
  void skip_space() {
    while (peek() == ' ' || peek() == '\t' || peek() == '\n' || peek() == '\r') ++position;
  }
  bool accept(char c) {
    skip_space();
    if (peek() != c) return false;
    ++position;
    return true;
  }
  void expect(char c) {
    if (!accept(c)) wrong(std::string{'\'', c, '\''});
  }
  std::string found() const {
    if (position >= text.size()) return "the end";
    const auto byte = static_cast<unsigned char>(text[position]);
    if (byte > 0x20 && byte < 0x7F) return {'\'', text[position], '\''};
    return vaelib::text("a byte of value ", static_cast<unsigned>(byte));
  }
  void append_escape(std::string& result) {
    constexpr std::string_view names = "\"\\/bfnrt", meanings = "\"\\/\b\f\n\r\t";
    ++position;
    if (const std::size_t plain = names.find(peek()); plain != std::string_view::npos) {
      result += meanings[plain];
      ++position;
      return;
    }
    if (peek() != 'u') wrong("one of the escapes of JSON");
    std::uint32_t code = four_digits();
    if (code >= 0xDC00 && code <= 0xDFFF) wrong("a leading surrogate before a trailing one");
    if (code >= 0xD800 && code <= 0xDBFF) {
      if (text.substr(position, 2) != "\\u") wrong("the trailing half of a surrogate pair");
      ++position;
      const std::uint32_t trailing = four_digits();
      if (trailing < 0xDC00 || trailing > 0xDFFF) wrong("the trailing half of a surrogate pair");
      code = 0x10000 + ((code - 0xD800) << 10) + (trailing - 0xDC00);
    }
    append_utf8(result, code);
  }
  /// The code of an escape: u and four hexadecimal digits.
  std::uint32_t four_digits() {
    std::uint32_t code = 0;
    ++position;
    for (int i = 0; i < 4; ++i, ++position) {
      const char c = peek();
      const int digit = is_digit(c)            ? c - '0'
                        : c >= 'a' && c <= 'f' ? c - 'a' + 10
                        : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                               : -1;
      if (digit < 0) wrong("four hexadecimal digits");
      code = code * 16 + static_cast<std::uint32_t>(digit);
    }
    return code;
  }
  static void append_utf8(std::string& result, std::uint32_t code) {
    const auto push = [&](std::uint32_t byte) { result += static_cast<char>(static_cast<unsigned char>(byte)); };
    if (code < 0x80) return push(code);
    if (code < 0x800) {
      push(0xC0 | code >> 6);
    } else {
      if (code < 0x10000) {
        push(0xE0 | code >> 12);
      } else {
        push(0xF0 | code >> 18);
        push(0x80 | (code >> 12 & 0x3F));
      }
      push(0x80 | (code >> 6 & 0x3F));
    }
    push(0x80 | (code & 0x3F));
  }

  std::string_view text;
  std::string_view file_name;
  std::uint64_t first_byte;
  std::size_t position = 0;
  std::size_t token = 0;
};

}  // namespace vaelib::inline VAELIB_ABI
