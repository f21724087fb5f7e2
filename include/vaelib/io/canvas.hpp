// Drawing on an image: rectangles, discs, lines and text with smooth edges. Coordinates are pixels, y downwards; the
// centre of the first pixel is (0.5, 0.5).
//
// A pixel is covered by clamp(radius - d + 1/2, 0, 1), d being its distance to the line. The coverage of all segments
// of a drawing is its largest, not its sum: joints are not darker than the rest, and transparency is even.
#pragma once

#include <vaelib/io/font.hpp>
#include <vaelib/io/image.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

namespace vaelib::inline VAELIB_ABI {
namespace plot {

struct Color {
  std::uint8_t red, green, blue;
};

enum class Align { left, center, right };

class Canvas {
 public:
  Canvas(int width, int height, Color background = {255, 255, 255}) : image(blank_image(width, height, 3, 255)) {
    fill({0, 0}, {static_cast<float>(width), static_cast<float>(height)}, background);
  }

  /// The rectangle between two corners, whole pixels only.
  void fill(Point low, Point high, Color color) {
    const Box box = clip(low, high);
    for (int y = box.top; y < box.bottom; ++y)
      for (int x = box.left; x < box.right; ++x) blend(x, y, color, 1);
  }

  void disc(Point center, float radius, Color color, float opacity = 1) {
    const float reach = radius + 1;
    const Box box = clip({center.x - reach, center.y - reach}, {center.x + reach + 1, center.y + reach + 1});
    for (int y = box.top; y < box.bottom; ++y)
      for (int x = box.left; x < box.right; ++x) {
        const float dx = static_cast<float>(x) + 0.5f - center.x, dy = static_cast<float>(y) + 0.5f - center.y;
        blend(x, y, color, opacity * std::clamp(radius - std::sqrt(dx * dx + dy * dy) + 0.5f, 0.0f, 1.0f));
      }
  }

  /// Lines with round ends and joints; a path of one point is a dot.
  void lines(std::span<const Path> paths, float width, Color color, float opacity = 1) {
    Point low{1e9f, 1e9f}, high{-1e9f, -1e9f};
    for (const Path& path : paths)
      for (const Point& point : path) {
        low = {std::min(low.x, point.x), std::min(low.y, point.y)};
        high = {std::max(high.x, point.x), std::max(high.y, point.y)};
      }
    const float reach = width / 2 + 1;
    const Box box = clip({low.x - reach, low.y - reach}, {high.x + reach + 1, high.y + reach + 1});
    if (box.right <= box.left || box.bottom <= box.top) return;
    std::vector<float> coverage(static_cast<std::size_t>(box.right - box.left) * (box.bottom - box.top));
    for (const Path& path : paths)
      for (std::size_t i = 0; i < path.size(); ++i)
        if (i > 0 || path.size() == 1) cover(coverage, box, path[i > 0 ? i - 1 : 0], path[i], width / 2);
    const float* covered = coverage.data();
    for (int y = box.top; y < box.bottom; ++y)
      for (int x = box.left; x < box.right; ++x) blend(x, y, color, opacity * *covered++);
  }

  /// One line of text; `size` is the height of a capital letter, `weight` the width of a stroke, in pixels.
  void text(std::string_view line, Point at, Color color, float size = 12, float weight = 1.5f,
            Align align = Align::left) {
    const float scale = size / 14, width = text_width(line, scale);
    const float x = align == Align::left ? at.x : align == Align::right ? at.x - width : at.x - width / 2;
    // Straight strokes are sharp where their centres are those of pixels.
    lines(text_paths(line, std::floor(x) + 0.5f, std::floor(at.y) + 0.5f, scale), weight, color);
  }

  Image image;

 private:
  struct Box {
    int left, top, right, bottom;
  };

  Box clip(Point low, Point high) const {
    const auto inside = [](float value, int limit) {
      return value > 0 ? static_cast<int>(std::min(value, static_cast<float>(limit))) : 0;  // NaN is 0
    };
    return {inside(low.x, image.width), inside(low.y, image.height), inside(high.x, image.width),
            inside(high.y, image.height)};
  }

  void blend(int x, int y, Color color, float share) {
    if (share <= 0) return;
    std::uint8_t* pixel = image.at(x, y);
    const std::uint8_t wanted[] = {color.red, color.green, color.blue};
    for (int c = 0; c < 3; ++c)
      pixel[c] = static_cast<std::uint8_t>(static_cast<float>(pixel[c]) * (1 - share) +
                                           static_cast<float>(wanted[c]) * share + 0.5f);
  }

  void cover(std::vector<float>& coverage, const Box& box, Point a, Point b, float radius) const {
    const float reach = radius + 1;
    const Box part = clip({std::min(a.x, b.x) - reach, std::min(a.y, b.y) - reach},
                          {std::max(a.x, b.x) + reach + 1, std::max(a.y, b.y) + reach + 1});
    const float dx = b.x - a.x, dy = b.y - a.y, length = dx * dx + dy * dy;
    for (int y = part.top; y < part.bottom; ++y)
      for (int x = part.left; x < part.right; ++x) {
        const float px = static_cast<float>(x) + 0.5f - a.x, py = static_cast<float>(y) + 0.5f - a.y;
        const float t = length > 0 ? std::clamp((px * dx + py * dy) / length, 0.0f, 1.0f) : 0.0f;
        const float distance = std::sqrt((px - t * dx) * (px - t * dx) + (py - t * dy) * (py - t * dy));
        float& covered = coverage[static_cast<std::size_t>(y - box.top) * (box.right - box.left) + (x - box.left)];
        covered = std::max(covered, std::clamp(radius - distance + 0.5f, 0.0f, 1.0f));
      }
  }
};

}  // namespace plot
}  // namespace vaelib::inline VAELIB_ABI
