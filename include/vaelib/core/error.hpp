// The one exception of the library. Its text is for the user of a program: where, what was found, what was expected.
#pragma once

#include <vaelib/version.hpp>

#include <cstdio>
#include <initializer_list>
#include <stdexcept>
#include <string>
#include <string_view>

namespace vaelib::inline VAELIB_ABI {

class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

namespace detail {

/// One part of a message: text or a number. A plain type, so that a message costs little to compile.
struct TextPart {
  enum Kind { string, integer, natural, real } kind;
  union {
    std::string_view characters;
    long long i;
    unsigned long long n;
    double d;
  };
  char single = 0;

  TextPart(std::string_view s) : kind(string), characters(s) {}
  TextPart(const char* s) : kind(string), characters(s) {}
  TextPart(const std::string& s) : kind(string), characters(s) {}
  TextPart(char c) : kind(string), characters(), single(c) {}
  TextPart(int v) : kind(integer), i(v) {}
  TextPart(long v) : kind(integer), i(v) {}
  TextPart(long long v) : kind(integer), i(v) {}
  TextPart(unsigned char v) : kind(natural), n(v) {}
  TextPart(unsigned v) : kind(natural), n(v) {}
  TextPart(unsigned long v) : kind(natural), n(v) {}
  TextPart(unsigned long long v) : kind(natural), n(v) {}
  TextPart(double v) : kind(real), d(v) {}

  void append_to(std::string& text) const {
    char number[32];
    switch (kind) {
      case string: text.append(single ? std::string_view(&single, 1) : characters); return;
      case integer: std::snprintf(number, sizeof number, "%lld", i); break;
      case natural: std::snprintf(number, sizeof number, "%llu", n); break;
      case real: std::snprintf(number, sizeof number, "%g", d); break;
    }
    text.append(number);
  }
};

[[gnu::cold]] inline std::string join(std::initializer_list<TextPart> parts) {
  std::string result;
  for (const TextPart& part : parts) part.append_to(result);
  return result;
}
[[noreturn, gnu::cold]] inline void throw_error(std::initializer_list<TextPart> parts) { throw Error(join(parts)); }

}  // namespace detail

/// One string of all parts: text, characters and numbers.
std::string text(const auto&... parts) { return detail::join({detail::TextPart(parts)...}); }

/// Throws Error with the text of all parts.
[[noreturn, gnu::cold]] void fail(const auto&... parts) { detail::throw_error({detail::TextPart(parts)...}); }

}  // namespace vaelib::inline VAELIB_ABI
