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
#include <string_view>
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

/// Refuses chunks that are longer than the file (libpng's simplified interface takes memory for any length), and a file
/// whose first chunk is not IHDR, which says how large the picture is.
inline void check_png_chunks(std::span<const std::uint8_t> file, const std::string& name) {
  const auto type = [&](std::size_t at) { return std::string_view(reinterpret_cast<const char*>(file.data()) + at + 4, 4); };
  for (std::size_t at = 8; at + 8 <= file.size() && type(at) != "IEND";) {
    const std::uint64_t length = std::uint64_t{file[at]} << 24 | file[at + 1] << 16 | file[at + 2] << 8 | file[at + 3];
    if (at == 8 && type(at) != "IHDR") fail(name, ": no valid PNG file: its first chunk is not IHDR");
    if (length + 12 > file.size() - at) fail(name, ": no valid PNG file: byte ", at, ": a chunk of ", length, " bytes is cut off");
    at += length + 12;
  }
}

/// Refuses what would take much memory for a small file: libpng asks for all of it before it decodes.
inline void check_png_memory(std::span<const std::uint8_t> file, std::uint64_t width, std::uint64_t height, int channels, const std::string& name) {
  constexpr std::uint64_t longest_side = 65536, greatest_ratio = 1032;  // of deflate
  constexpr int samples[] = {1, 0, 3, 1, 2, 0, 4};                      // by the type of colour, byte 25 of the file
  if (width > longest_side || height > longest_side) fail(name, ": ", width, " x ", height, " pixels, at most ", longest_side, " a side expected");
  const std::uint64_t packed = (width * file[24] * samples[file[25]] + 7) / 8 * height;
  if (packed / greatest_ratio > file.size() || width * height * channels > largest_unpacked(file.size()))
    fail(name, ": ", width, " x ", height, " pixels are more than is expected of ", file.size(), " bytes");
}

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
  detail::check_png_chunks(file, name);
  detail::PngImage png;
  if (!png_image_begin_read_from_memory(&png, file.data(), file.size()))
    fail(name, ": no valid PNG file: ", png.message);
  const bool colour = (png.format & PNG_FORMAT_FLAG_COLOR) != 0;
  if (std::uint64_t{png.width} * png.height > largest_image)
    fail(name, ": ", png.width, " x ", png.height, " pixels, at most ", largest_image, " expected");
  detail::check_png_memory(file, png.width, png.height, colour ? 3 : 1, name);
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
