// Images cut and scaled: what comes in any size becomes rows of one shape.
#pragma once

#include <vaelib/io/image.hpp>

#include <algorithm>
#include <cmath>
#include <vector>

namespace vaelib::inline VAELIB_ABI {

/// The largest part of the image with the proportions width : height, from its middle.
inline Image centre_crop(const Image& image, int width, int height) {
  const std::int64_t w = std::min<std::int64_t>(image.width, std::max<std::int64_t>(1, std::int64_t{image.height} * width / height));
  const std::int64_t h = std::min<std::int64_t>(image.height, std::max<std::int64_t>(1, std::int64_t{image.width} * height / width));
  if (w == image.width && h == image.height) return image;
  Image part = blank_image(static_cast<int>(w), static_cast<int>(h), image.channels, 0);
  const int left = static_cast<int>(image.width - w) / 2, top = static_cast<int>(image.height - h) / 2;
  for (int y = 0; y < part.height; ++y) std::copy_n(image.at(left, top + y), w * image.channels, part.at(0, y));
  return part;
}

namespace detail {

/// Which pixels of a line an output pixel covers, and by how much; bilinear where the line becomes longer.
struct Coverage {
  int first = 0;
  std::vector<float> weights;  // their sum is 1
};

inline std::vector<Coverage> coverage(int from, int to) {
  std::vector<Coverage> result(static_cast<std::size_t>(to));
  const double scale = double(from) / to;
  for (int i = 0; i < to; ++i) {
    Coverage& c = result[static_cast<std::size_t>(i)];
    if (scale <= 1) {
      const double centre = std::clamp((i + 0.5) * scale - 0.5, 0.0, from - 1.0);
      c.first = std::min(static_cast<int>(centre), std::max(0, from - 2));
      const auto share = static_cast<float>(centre - c.first);
      c.weights = {1 - share};
      if (from > 1) c.weights.push_back(share);
      continue;
    }
    const double begin = i * scale, end = std::min<double>(from, (i + 1) * scale);
    c.first = static_cast<int>(begin);
    for (int k = c.first; k < end; ++k)
      c.weights.push_back(static_cast<float>((std::min<double>(end, k + 1) - std::max<double>(begin, k)) / (end - begin)));
  }
  return result;
}

}  // namespace detail

/// The image in another size: the mean of the area that each pixel covers, or bilinear where it becomes larger.
inline Image resize(const Image& image, int width, int height) {
  if (image.width == width && image.height == height) return image;
  Image result = blank_image(width, height, image.channels, 0);
  const auto columns = detail::coverage(image.width, width), rows = detail::coverage(image.height, height);
  const int channels = image.channels;
  std::vector<float> line(static_cast<std::size_t>(width) * channels);
  for (int y = 0; y < height; ++y) {
    std::fill(line.begin(), line.end(), 0.5f);  // so that bytes are rounded
    const auto& row = rows[static_cast<std::size_t>(y)];
    for (std::size_t r = 0; r < row.weights.size(); ++r)
      for (int x = 0; x < width; ++x) {
        const auto& column = columns[static_cast<std::size_t>(x)];
        const std::uint8_t* from = image.at(column.first, row.first + static_cast<int>(r));
        for (const float weight : column.weights)
          for (int c = 0; c < channels; ++c) line[static_cast<std::size_t>(x * channels + c)] += row.weights[r] * weight * *from++;
      }
    for (std::size_t i = 0; i < line.size(); ++i) result.at(0, y)[i] = static_cast<std::uint8_t>(std::min(line[i], 255.0f));
  }
  return result;
}

/// Grey as colour, or colour as grey (ITU-R BT.601 luma).
inline Image with_channels(const Image& image, int channels) {
  if (image.channels == channels) return image;
  Image result = blank_image(image.width, image.height, channels, 0);
  const std::uint8_t* from = image.pixels.data();
  for (std::uint8_t* to = result.pixels.data(); to != result.pixels.data() + result.pixels.size(); to += channels, from += image.channels) {
    if (channels == 3) {
      to[0] = to[1] = to[2] = from[0];
    } else {
      to[0] = static_cast<std::uint8_t>((299 * from[0] + 587 * from[1] + 114 * from[2] + 500) / 1000);
    }
  }
  return result;
}

}  // namespace vaelib::inline VAELIB_ABI
