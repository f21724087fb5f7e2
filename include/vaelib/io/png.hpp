// PNG files of 8-bit grey or colour, by libpng (link -lpng). Not part of vae.hpp.
//
// libpng's simplified interface is used: it keeps its setjmp to itself and leaves a message, which becomes an Error.
#pragma once

#include <vaelib/core/error.hpp>
#include <vaelib/io/file.hpp>
#include <vaelib/io/image.hpp>

#include <png.h>

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace vaelib::inline VAELIB_ABI {

namespace detail {

/// libpng's image description, freed on every way out.
struct PngImage : png_image {
  PngImage() : png_image{} { version = PNG_IMAGE_VERSION; }
  PngImage(const PngImage&) = delete;
  PngImage& operator=(const PngImage&) = delete;
  ~PngImage() { png_image_free(this); }
};

}  // namespace detail

/// The bytes of a PNG file.
inline std::vector<std::uint8_t> encode_png(const Image& image) {
  const auto pixels = std::int64_t{image.width} * image.height;
  if (image.width < 1 || image.height < 1 || pixels > largest_image || (image.channels != 1 && image.channels != 3) ||
      image.pixels.size() != static_cast<std::size_t>(pixels) * image.channels)
    fail("PNG: an image of ", image.width, " x ", image.height, " x ", image.channels, " with ", image.pixels.size(),
         " bytes");
  detail::PngImage png;
  png.width = static_cast<png_uint_32>(image.width);
  png.height = static_cast<png_uint_32>(image.height);
  png.format = image.channels == 3 ? PNG_FORMAT_RGB : PNG_FORMAT_GRAY;
  png_alloc_size_t bytes = PNG_IMAGE_PNG_SIZE_MAX(png);
  std::vector<std::uint8_t> file(bytes);
  if (!png_image_write_to_memory(&png, file.data(), &bytes, 0, image.pixels.data(), 0, nullptr))
    fail("PNG: ", png.message);
  file.resize(bytes);
  return file;
}

/// The image in the bytes of a PNG file: 1 channel for grey files, 3 for all others. 16-bit files become 8-bit ones,
/// transparent ones are put on white. `name` is what an error calls it.
inline Image decode_png(std::span<const std::uint8_t> file, const std::string& name = "PNG") {
  if (file.empty()) fail(name, ": no valid PNG file: it is empty");
  detail::PngImage png;
  if (!png_image_begin_read_from_memory(&png, file.data(), file.size()))
    fail(name, ": no valid PNG file: ", png.message);
  const bool colour = (png.format & PNG_FORMAT_FLAG_COLOR) != 0;
  if (std::uint64_t{png.width} * png.height > largest_image)
    fail(name, ": ", png.width, " x ", png.height, " pixels, at most ", largest_image, " expected");
  Image image = blank_image(static_cast<int>(png.width), static_cast<int>(png.height), colour ? 3 : 1, 255);
  png.format = colour ? PNG_FORMAT_RGB : PNG_FORMAT_GRAY;
  const png_color white{255, 255, 255};
  if (!png_image_finish_read(&png, &white, image.pixels.data(), 0, nullptr))
    fail(name, ": no valid PNG file: ", png.message);
  return image;
}

inline void write_png(const std::string& path, const Image& image) {
  const auto file = encode_png(image);
  write_file_atomically(path, file);
}

inline Image read_png(const std::string& path) {
  const std::string file = read_file(path, std::uint64_t{1} << 28);
  return decode_png({reinterpret_cast<const std::uint8_t*>(file.data()), file.size()}, path);
}

}  // namespace vaelib::inline VAELIB_ABI
