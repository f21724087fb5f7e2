// Pictures of sets of points: a grid of scatters. Points in space are seen from above and the side, near ones larger and
// darker, far ones in front of which others lie are covered by them; points in a plane as they are.
#pragma once

#include <vaelib/io/canvas.hpp>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <span>
#include <vector>

namespace vaelib::inline VAELIB_ABI {
namespace report {

struct PointGridOptions {
  int columns = 8, size = 120;  ///< pixels of a tile
  float reach = 1.1f;           ///< half of the width of what is shown, in units of the points
};

/// Sets of points of `width` numbers (2, or 3 and more, of which the first three are shown); points that are not finite are left out.
[[gnu::cold]] inline Image point_grid(const std::vector<std::span<const float>>& sets, int width, const PointGridOptions& options = {}) {
  if (width < 2) fail("point_grid: points of ", width, " numbers, expected at least 2");
  const int columns = std::max(1, std::min<int>(options.columns, int(sets.size()))), rows = std::max(1, (int(sets.size()) + columns - 1) / columns);
  if (options.size < 8 || std::int64_t{columns} * options.size > 16384 || std::int64_t{rows} * options.size > 16384) fail("point_grid: ", sets.size(), " tiles of ", options.size, " pixels");
  plot::Canvas canvas(columns * options.size, rows * options.size, {255, 255, 255});
  constexpr double azimuth = 0.6, elevation = 0.45;
  struct Seen {
    float x, y, depth;
  };
  for (std::size_t s = 0; s < sets.size(); ++s) {
    const float left = float(int(s) % columns * options.size), top = float(int(s) / columns * options.size), half = float(options.size) / 2;
    std::vector<Seen> points;
    for (std::size_t p = 0; p + std::size_t(width) <= sets[s].size(); p += std::size_t(width)) {
      const double x = sets[s][p], y = sets[s][p + 1], z = width > 2 ? double(sets[s][p + 2]) : 0;
      if (!std::isfinite(x + y + z)) continue;
      Seen seen{float(x), float(y), 0};
      if (width > 2) {
        const double across = std::cos(azimuth) * x - std::sin(azimuth) * y, along = std::sin(azimuth) * x + std::cos(azimuth) * y;
        seen = {float(across), float(-std::cos(elevation) * z + std::sin(elevation) * along), float(-std::cos(elevation) * along - std::sin(elevation) * z)};
      }
      if (std::abs(seen.x) < options.reach && std::abs(seen.y) < options.reach) points.push_back(seen);
    }
    std::stable_sort(points.begin(), points.end(), [](const Seen& a, const Seen& b) { return a.depth > b.depth; });
    const float radius = std::clamp(float(options.size) / 14 / std::sqrt(std::max(1.0f, float(points.size()) / 40)), 1.0f, 5.0f);
    for (const Seen& p : points) {
      const float near = width > 2 ? std::clamp(0.5f - p.depth / (2 * options.reach), 0.0f, 1.0f) : 1;
      const auto shade = [&](float dark, float light) { return std::uint8_t(light + (dark - light) * near); };
      canvas.disc({left + half + p.x / options.reach * half, top + half + p.y / options.reach * half}, radius * (0.7f + 0.5f * near), {shade(0, 176), shade(70, 205), shade(130, 232)});
    }
    canvas.fill({left, top}, {left + 1, top + float(options.size)}, {225, 228, 232});
    canvas.fill({left, top}, {left + float(options.size), top + 1}, {225, 228, 232});
  }
  return canvas.image;
}

}  // namespace report
}  // namespace vaelib::inline VAELIB_ABI
