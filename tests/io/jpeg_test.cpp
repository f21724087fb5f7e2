#include <vaelib/io/jpeg.hpp>
#include <vaelib/io/resize.hpp>

#include <cmath>
#include <cstdlib>

#include "faults.hpp"
#include "jpeg_files.hpp"

using namespace vaelib;
using namespace io_test;

namespace {

/// Smooth enough for JPEG to keep it.
Image picture(int width, int height, int channels) {
  Image image = blank_image(width, height, channels, 0);
  for (int y = 0; y < height; ++y)
    for (int x = 0; x < width; ++x)
      for (int c = 0; c < channels; ++c) image.at(x, y)[c] = std::uint8_t(60 + 100 * x / width + 60 * y / height + 10 * c);
  return image;
}
int largest_difference(const Image& a, const Image& b) {
  REQUIRE(a.pixels.size() == b.pixels.size());
  int largest = 0;
  for (std::size_t i = 0; i < a.pixels.size(); ++i) largest = std::max(largest, std::abs(a.pixels[i] - b.pixels[i]));
  return largest;
}

}  // namespace

TEST_CASE("JPEG files, grey and in colour") {
  for (const int channels : {1, 3})
    for (const bool progressive : {false, true}) {
      const Image image = picture(37, 21, channels), again = decode_jpeg(encode_jpeg(image, progressive));
      CHECK(again.width == 37);
      CHECK(again.height == 21);
      CHECK(again.channels == channels);
      CHECK(largest_difference(image, again) <= 4);
    }
}

TEST_CASE("damaged JPEG files") {
  const auto file = encode_jpeg(picture(64, 64, 3), true);
  CHECK(error_of([] { decode_jpeg({}, "f"); }).starts_with("f: no valid JPEG file: "));
  for (std::size_t length = 0; length + 2 < file.size(); length += 31)
    CHECK(error_of([&] { decode_jpeg(std::span(file).first(length), "f"); }).starts_with("f: no valid JPEG file: "));
  for (std::size_t at = 0; at < file.size(); at += 5) {
    auto damaged = file;
    damaged[at] ^= 0x55;
    error_of([&] { decode_jpeg(damaged, "f"); });  // an Error or a picture, nothing else
  }
  auto huge = file;  // the extents stand behind the marker of the frame
  for (std::size_t at = 0; at + 9 < huge.size(); ++at)
    if (huge[at] == 0xff && huge[at + 1] == 0xc2) huge[at + 5] = huge[at + 6] = huge[at + 7] = huge[at + 8] = 0xfa;
  CHECK(error_of([&] { decode_jpeg(huge, "f"); }).find("pixels, at most") != std::string::npos);
}

TEST_CASE("the middle of an image, with other proportions") {
  const Image wide = picture(9, 4, 3);
  const Image square = centre_crop(wide, 64, 64);
  CHECK(square.width == 4);
  CHECK(square.height == 4);
  for (int c = 0; c < 3; ++c) CHECK(square.at(0, 1)[c] == wide.at(2, 1)[c]);
  CHECK(centre_crop(wide, 9, 4).pixels == wide.pixels);
  CHECK(centre_crop(picture(1, 100, 1), 100, 1).height == 1);
}

TEST_CASE("scaled images") {
  const Image image = picture(12, 8, 3);
  CHECK(resize(image, 12, 8).pixels == image.pixels);
  const Image half = resize(image, 6, 4);
  for (int c = 0; c < 3; ++c) {
    const int sum = image.at(4, 2)[c] + image.at(5, 2)[c] + image.at(4, 3)[c] + image.at(5, 3)[c];
    CHECK(half.at(2, 1)[c] == (sum + 2) / 4);
  }
  for (const auto& [width, height] : {std::pair{1, 1}, {5, 3}, {31, 17}, {12, 1}, {1, 40}}) {
    CHECK(resize(blank_image(12, 8, 1, 255), width, height).pixels == blank_image(width, height, 1, 255).pixels);
    CHECK(resize(blank_image(1, 1, 3, 77), width, height).pixels == blank_image(width, height, 3, 77).pixels);
    double before = 0, after = 0;
    const Image scaled = resize(image, width, height);
    for (const auto value : image.pixels) before += value;
    for (const auto value : scaled.pixels) after += value;
    CHECK(std::abs(before / image.pixels.size() - after / scaled.pixels.size()) < 1.5);
  }
  const Image grey = with_channels(image, 1);
  CHECK(grey.at(0, 0)[0] == (299 * 60 + 587 * 70 + 114 * 80 + 500) / 1000);
  CHECK(with_channels(grey, 3).at(5, 5)[2] == grey.at(5, 5)[0]);
}
