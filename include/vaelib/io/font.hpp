// A font of strokes for charts, ASCII only (any other character is a question mark), drawn like any other line, so
// crisp at every size.
//
// A glyph is a string of points, two characters each, x then y, in base 36 (0-9, a-z). The baseline is y = 4, small
// letters reach to 14, capitals to 18, descenders to 0. A point after '*' is the control point of a quadratic Bezier
// curve; between two of them lies a point of the curve, as in TrueType. A space begins a new stroke.
#pragma once

#include <vaelib/version.hpp>

#include <algorithm>
#include <array>
#include <string_view>
#include <utility>
#include <vector>

namespace vaelib::inline VAELIB_ABI {
namespace plot {

struct Point {
  float x = 0, y = 0;
};
using Path = std::vector<Point>;

namespace detail {

inline constexpr std::array<const char*, 95> glyphs = {
    "",                                                   // space
    "0i09 0405",                                          // !
    "0i0e 3i3e",                                          // "
    "3i24 8i74 0eae 08a8",                                // #
    "8f*7i4i*0i0f*0c4b*9a97*9444*0407 4k42",              // $
    "9i04 2i*4i*4d*0d*0i2i 79*99*94*54*5979",             // %
    "a42d*1i4i*8i6d*5c2a*0907*0444*84a9",                 // &
    "0i0e",                                               // '
    "3j*0f0a*0531",                                       // (
    "0j*3f3a*3501",                                       // )
    "3i3c 0g6e 6g0e",                                     // *
    "4e46 0a8a",                                          // +
    "1501",                                               // ,
    "0a6a",                                               // -
    "0405",                                               // .
    "026j",                                               // /
    "4i*8i*84*04*0i4i",                                   // 0
    "2f5i54",                                             // 1
    "0e*0i*8i8e*8b0484",                                  // 2
    "0f*0i4i*7i*7b3b*8b*8444*0407",                       // 3
    "646i0888",                                           // 4
    "7i1i0b*1d4d*8d*8444*0407",                           // 5
    "6i*0g08 4c*8c*84*04*0c4c",                           // 6
    "0i8i34",                                             // 7
    "4i*7i*7b*1b*1i4i 4b*8b*84*04*0b4b",                  // 8
    "24*868e 4i*8i*8a*0a*0i4i",                           // 9
    "0405 0d0e",                                          // :
    "1501 1d1e",                                          // ;
    "8e0a86",                                             // <
    "0c8c 0888",                                          // =
    "0e8a06",                                             // >
    "0f*0i4i*8i8f*8d5c*4b48 4445",                        // ?
    "a3*8262*02*0i6i*cica*c6a6*96989e 6e*9e*96*36*3e6e",  // @
    "045ia4 2989",                                        // A
    "040i5i*9i*9b5b0b 5b*ab*a45404",                      // B
    "af*9i5i*0i*0454*94a7",                               // C
    "040i4i*ai*a44404",                                   // D
    "8i0i0484 0b7b",                                      // E
    "8i0i04 0b7b",                                        // F
    "af*9i5i*0i*0454*a4a8ab6b",                           // G
    "040i a4ai 0bab",                                     // H
    "040i",                                               // I
    "6i68*6434*0407",                                     // J
    "040i 9i09 3c94",                                     // K
    "0i0484",                                             // L
    "040i67cic4",                                         // M
    "040ia4ai",                                           // N
    "6i*ci*c4*04*0i6i",                                   // O
    "040i5i*9i*9a5a0a",                                   // P
    "6i*ci*c4*04*0i6i 88c3",                              // Q
    "040i5i*9i*9a5a0a 5a94",                              // R
    "8f*7i4i*0i0f*0c4b*9a97*9444*0407",                   // S
    "0iai 5i54",                                          // T
    "0i09*0454*a4a9ai",                                   // U
    "0i54ai",                                             // V
    "0i447ga4ei",                                         // W
    "0ia4 ai04",                                          // X
    "0i5bai 5b54",                                        // Y
    "0i9i0494",                                           // Z
    "3j0j0131",                                           // [
    "0j62",                                               // backslash
    "0j3j3101",                                           // ]
    "0d4i8d",                                             // ^
    "0292",                                               // _
    "0i2f",                                               // `
    "1c*2e4e*8e8a84 8a4a*0a*0434*7487",                   // a
    "0i04 4e*8e*84*04*0e4e",                              // b
    "8c*7e4e*0e*0444*7486",                               // c
    "8i84 4e*8e*84*04*0e4e",                              // d
    "0989*8e4e*0e*0444*7486",                             // e
    "5i4i*2i2f24 0e5e",                                   // f
    "8e83*8040*2011 4e*8e*84*04*0e4e",                    // g
    "0i04 0a*0e4e*8e8a84",                                // h
    "0e04 0h0i",                                          // i
    "2e22*2000 2h2i",                                     // j
    "0i04 7e08 2a84",                                     // k
    "0i04",                                               // l
    "0e04 0b*0e3e*6e6b64 6b*6e9e*cecbc4",                 // m
    "0e04 0a*0e4e*8e8a84",                                // n
    "4e*8e*84*04*0e4e",                                   // o
    "0e00 4e*8e*84*04*0e4e",                              // p
    "8e80 4e*8e*84*04*0e4e",                              // q
    "0e04 0a*0e5e",                                       // r
    "7c*7e4e*0e0c*0a49*8886*8444*0406",                   // s
    "2h27*2454 0e5e",                                     // t
    "0e08*0444*8488 8e84",                                // u
    "0e448e",                                             // v
    "0e346d94ce",                                         // w
    "0e84 8e04",                                          // x
    "0e44 8e20",                                          // y
    "0e8e0484",                                           // z
    "3j*1j1f1c0a1815*1131",                               // {
    "0j01",                                               // |
    "0j*2j2f2c3a2825*2101",                               // }
    "09*1c4a*788b",                                       // ~
};

inline std::string_view glyph(char c) { return glyphs[static_cast<std::size_t>(c < ' ' || c > '~' ? '?' : c) - ' ']; }

inline float coordinate(char c) { return static_cast<float>(c <= '9' ? c - '0' : c - 'a' + 10); }

/// Adds the curve from the path's end to `to`, in straight pieces.
inline void add_curve(Path& path, Point control, Point to) {
  const Point from = path.back();
  constexpr int pieces = 6;
  for (int i = 1; i <= pieces; ++i) {
    const float t = static_cast<float>(i) / pieces, s = 1 - t;
    path.push_back(
        {s * s * from.x + 2 * s * t * control.x + t * t * to.x, s * s * from.y + 2 * s * t * control.y + t * t * to.y});
  }
}

/// The strokes of a glyph, in the units above.
inline std::vector<Path> glyph_paths(char c) {
  std::vector<Path> paths(1);
  bool curved = false;  // a control point waits for its end
  Point control;
  for (std::string_view rest = glyph(c); !rest.empty();) {
    if (rest[0] == ' ') {
      paths.emplace_back();
      rest.remove_prefix(1);
      continue;
    }
    const bool is_control = rest[0] == '*';
    rest.remove_prefix(is_control ? 1 : 0);
    const Point point{coordinate(rest[0]), coordinate(rest[1])};
    rest.remove_prefix(2);
    if (curved)
      add_curve(paths.back(), control,
                is_control ? Point{(control.x + point.x) / 2, (control.y + point.y) / 2} : point);
    else if (!is_control)
      paths.back().push_back(point);
    curved = is_control;
    control = point;
  }
  return paths;
}

/// How far the next glyph begins to the right. Digits are equally wide.
inline float advance(char c) {
  if (c == ' ') return 7;
  float width = c >= '0' && c <= '9' ? 8.0f : 0.0f;
  for (const Path& path : glyph_paths(c))
    for (const Point& point : path) width = std::max(width, point.x);
  return width + 4;
}

}  // namespace detail

/// The strokes of a line of text that begins at (x, baseline), y downwards, at `scale` pixels a unit.
inline std::vector<Path> text_paths(std::string_view text, float x, float baseline, float scale) {
  std::vector<Path> paths;
  for (char c : text) {
    for (Path& path : detail::glyph_paths(c)) {
      for (Point& point : path) point = {x + point.x * scale, baseline - (point.y - 4) * scale};
      paths.push_back(std::move(path));
    }
    x += detail::advance(c) * scale;
  }
  return paths;
}

/// Its width in pixels.
inline float text_width(std::string_view text, float scale) {
  float width = 0;
  for (char c : text) width += detail::advance(c);
  return text.empty() ? 0 : (width - 4) * scale;
}

}  // namespace plot
}  // namespace vaelib::inline VAELIB_ABI
