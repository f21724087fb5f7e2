// Pictures in a report: strips of small images with a name each, as embedded PNG (link -lpng).
#pragma once

#include <vaelib/core/shape.hpp>
#include <vaelib/io/image.hpp>
#include <vaelib/io/png.hpp>
#include <vaelib/report/markup.hpp>

#include <algorithm>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace vaelib::inline VAELIB_ABI {
namespace report {

struct Strip {
  std::string name;
  Image image;
};

/// Strips one below another; the name of a single one is not shown. They are enlarged by one whole factor, so that the
/// widest has at most `width` pixels, and made smaller only where the screen is narrower.
struct Pictures {
  std::string title;
  std::vector<Strip> strips;
  int width = 600;
};

/// Images side by side, `columns` a row, with a thin line between them that is seen on light and on dark.
inline Image tiles(std::span<const float> values, Shape shape, int columns) {
  return image_grid(values, shape.height, shape.width, shape.channels,
                    {.columns = columns, .padding = 1, .background = 128});
}

inline std::string html_of(const Pictures& pictures) {
  const bool single = pictures.strips.size() == 1;
  std::string markup = single ? "<div class=\"strips single\">" : "<div class=\"strips\">";
  int widest = 1;
  for (const Strip& strip : pictures.strips) widest = std::max(widest, strip.image.width);
  const int scale = std::max(1, pictures.width / widest);
  for (const Strip& strip : pictures.strips) {
    if (!single) markup += text("<span>", escaped(strip.name), "</span>");
    markup += text("<img width=\"", strip.image.width * scale, "\" height=\"", strip.image.height * scale, "\" alt=\"",
                   escaped(pictures.title + ": " + strip.name), "\" src=\"data:image/png;base64,",
                   base64(encode_png(strip.image)), "\">\n");
  }
  return markup + "</div>";
}

inline Json numbers_of(const Pictures& pictures) {
  std::vector<std::string> names;
  for (const Strip& strip : pictures.strips) names.push_back(strip.name);
  return Json::object({{"strips", names}});
}

}  // namespace report
}  // namespace vaelib::inline VAELIB_ABI
