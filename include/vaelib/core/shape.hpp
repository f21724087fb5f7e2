// The shape of one sample: height x width x channels, channels last. How many samples there are is known at run time only.
//
// A Shape is a structural value and so may be a template argument: Sequential<Shape{28, 28, 1}, ...>. Any extent may be
// `dynamic`: then it is given, and checked, when the model is built, by the same rules as at compile time.
#pragma once

#include <vaelib/core/error.hpp>

namespace vaelib::inline VAELIB_ABI {

/// An extent that is known at run time only, as in std::span.
inline constexpr int dynamic = -1;

struct Shape {
  int height = 1, width = 1, channels = 1;

  constexpr Shape(int c) : channels(c) {}
  constexpr Shape(int h, int w, int c) : height(h), width(w), channels(c) {}

  constexpr bool is_dynamic() const { return height == dynamic || width == dynamic || channels == dynamic; }
  /// Number of features of one sample; dynamic where an extent is.
  constexpr int size() const { return is_dynamic() ? dynamic : height * width * channels; }
  /// A plain row of features, without height and width.
  constexpr bool is_flat() const { return height == 1 && width == 1; }
  constexpr bool operator==(const Shape&) const = default;
};

/// Whether two extents can be the same: equal, or one of them not known yet.
constexpr bool agree(int a, int b) { return a == b || a == dynamic || b == dynamic; }
constexpr bool agree(Shape a, Shape b) {
  return agree(a.height, b.height) && agree(a.width, b.width) && agree(a.channels, b.channels);
}

/// "28 x 28 x 1", or "400" for a flat shape.
inline std::string text_of(Shape s) {
  const auto extent = [](int e) { return e == dynamic ? detail::TextPart("dynamic") : detail::TextPart(e); };
  return s.is_flat() ? text(extent(s.channels)) : text(extent(s.height), " x ", extent(s.width), " x ", extent(s.channels));
}

/// One extent of a layer: a constant of its type, or, as Extent<dynamic>, a number given at run time.
template <int Value>
struct Extent {
  constexpr operator int() const { return Value; }
};
template <>
struct Extent<dynamic> {
  int value = dynamic;
  constexpr Extent() = default;
  constexpr Extent(int v) : value(v) {}
  constexpr operator int() const { return value; }
};

namespace detail {
/// A name without the qualifiers in it: "std::vector<vaelib::Shape>" becomes "vector<Shape>".
[[gnu::cold]] inline std::string unqualified(std::string_view name) {
  std::string result;
  for (const char c : name) {
    result += c;
    if (!result.ends_with("::")) continue;
    std::size_t start = result.size() - 2;  // drop the qualifier that was just read
    while (start > 0 && (result[start - 1] == '_' || std::string_view("<>, (){}").find(result[start - 1]) == std::string_view::npos)) --start;
    result.resize(start);
  }
  return result;
}
}  // namespace detail

/// The name of a type without namespaces, for messages: "Linear<400>".
template <class T>
std::string type_name() {
#if defined(__clang__) || defined(__GNUC__)
  constexpr std::string_view name = __PRETTY_FUNCTION__;
  constexpr auto begin = name.find("T = ") + 4;
  return detail::unqualified(name.substr(begin, name.find_first_of(";]", begin) - begin));
#else
  return "layer";
#endif
}

}  // namespace vaelib::inline VAELIB_ABI
