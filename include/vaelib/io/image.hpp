// A picture in memory, and a grid of small pictures: what reconstructions and samples are looked at in.
#pragma once

#include <vaelib/core/error.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <span>
#include <vector>

namespace vaelib::inline VAELIB_ABI {

/// Bytes height x width x channels, channels last: 1 is grey, 3 is red, green, blue.
struct Image {
  int width = 0, height = 0, channels = 1;
  std::vector<std::uint8_t> pixels;

  std::uint8_t* at(int x, int y) { return pixels.data() + (std::int64_t{y} * width + x) * channels; }
  const std::uint8_t* at(int x, int y) const { return pixels.data() + (std::int64_t{y} * width + x) * channels; }
};

inline constexpr std::int64_t largest_image = std::int64_t{1} << 26;  // pixels, written or read

/// An image of one value. Refuses extents below 1 and more than 2^26 pixels.
inline Image blank_image(int width, int height, int channels, std::uint8_t value) {
  if (width < 1 || height < 1 || std::int64_t{width} * height > largest_image)
    fail("image: ", width, " x ", height, " pixels, expected 1 to ", largest_image, " pixels");
  if (channels != 1 && channels != 3) fail("image: ", channels, " channels, expected 1 (grey) or 3 (colour)");
  return {width, height, channels, std::vector(static_cast<std::size_t>(width) * height * channels, value)};
}

struct GridOptions {
  int columns = 0;  ///< 0: as square as the number of images allows
  int padding = 2;  ///< pixels between images and around them
  int scale = 1;    ///< every value becomes scale x scale pixels
  std::uint8_t background = 255;
};

namespace detail {

inline void draw_tile(Image& grid, const float* values, int height, int width, int channels, int x0, int y0,
                      int scale) {
  for (int y = 0; y < height * scale; ++y)
    for (int x = 0; x < width * scale; ++x) {
      const float* value = values + (std::int64_t{y / scale} * width + x / scale) * channels;
      std::uint8_t* pixel = grid.at(x0 + x, y0 + y);
      bool is_number = true;
      for (int c = 0; c < channels; ++c) is_number = is_number && !std::isnan(value[c]);
      static constexpr std::uint8_t magenta[] = {255, 0, 255};
      for (int c = 0; c < grid.channels; ++c)
        pixel[c] = is_number ? static_cast<std::uint8_t>(std::clamp(value[c % channels], 0.0f, 1.0f) * 255 + 0.5f)
                             : magenta[c];
    }
}

}  // namespace detail

/// Images of height x width x channels values in [0, 1], side by side and row by row. Values outside are clamped; a
/// pixel that is not a number is magenta, and then a grid of grey images is in colour.
inline Image image_grid(std::span<const float> values, int height, int width, int channels, GridOptions options = {}) {
  if (height < 1 || width < 1 || (channels != 1 && channels != 3) || std::int64_t{height} * width > largest_image)
    fail("image grid: images of ", height, " x ", width, " x ", channels, ", expected 1 or 3 channels");
  const std::size_t features = static_cast<std::size_t>(height) * width * channels;
  if (values.empty() || values.size() % features != 0 || values.size() / features > largest_image)
    fail("image grid: ", values.size(), " values are no whole number of images of ", features);
  if (options.columns < 0 || options.padding < 0 || options.padding > 1000 || options.scale < 1 || options.scale > 1000)
    fail("image grid: columns ", options.columns, ", padding ", options.padding, ", scale ", options.scale,
         ", expected at least 0, 0 to 1000, 1 to 1000");
  const int count = static_cast<int>(values.size() / features);
  const int columns = options.columns > 0 ? std::min(options.columns, count)
                                          : static_cast<int>(std::ceil(std::sqrt(static_cast<double>(count))));
  const int rows = (count + columns - 1) / columns;
  const std::int64_t step_x = std::int64_t{width} * options.scale + options.padding;
  const std::int64_t step_y = std::int64_t{height} * options.scale + options.padding;
  if (step_x * columns > largest_image || step_y * rows > largest_image)
    fail("image grid: ", columns, " x ", rows, " images of ", step_x, " x ", step_y, " pixels are too large");
  bool numbers = true;
  for (float value : values) numbers = numbers && !std::isnan(value);
  Image grid =
      blank_image(static_cast<int>(step_x * columns) + options.padding,
                  static_cast<int>(step_y * rows) + options.padding, numbers ? channels : 3, options.background);
  for (int i = 0; i < count; ++i)
    detail::draw_tile(grid, values.data() + features * i, height, width, channels,
                      static_cast<int>(step_x * (i % columns)) + options.padding,
                      static_cast<int>(step_y * (i / columns)) + options.padding, options.scale);
  return grid;
}

}  // namespace vaelib::inline VAELIB_ABI
