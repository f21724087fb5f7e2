// The one exception of the library. Its text is for the user of a program: where, what was found, what was expected.
#pragma once

#include <vaelib/version.hpp>

#include <stdexcept>
#include <string>
#include <string_view>

namespace vaelib::inline VAELIB_ABI {

class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

namespace detail {
inline void append(std::string& text, std::string_view part) { text += part; }
inline void append(std::string& text, const char* part) { text += part; }
inline void append(std::string& text, char part) { text += part; }
void append(std::string& text, auto number)
  requires requires { std::to_string(number); }
{
  text += std::to_string(number);
}
}  // namespace detail

/// One string of all parts: text, characters and numbers.
std::string text(const auto&... parts) {
  std::string result;
  (detail::append(result, parts), ...);
  return result;
}

/// Throws Error with the text of all parts.
[[noreturn]] void fail(const auto&... parts) { throw Error(text(parts...)); }

}  // namespace vaelib::inline VAELIB_ABI
