// What data/image_folder.hpp makes of a picture, and what of an error.
#pragma once

#include <vaelib/io/resize.hpp>

#include "harness.hpp"

namespace fuzz {

int read_image(auto&& decode) {
  return read([&] {
    const vaelib::Image image = decode();
    if (image.pixels.size() != std::size_t(image.width) * std::size_t(image.height) * std::size_t(image.channels))
      __builtin_trap();
    const vaelib::Image row = vaelib::with_channels(vaelib::resize(vaelib::centre_crop(image, 8, 6), 8, 6), 3);
    if (row.width != 8 || row.height != 6 || row.pixels.size() != 8 * 6 * 3) __builtin_trap();
  });
}

}  // namespace fuzz
