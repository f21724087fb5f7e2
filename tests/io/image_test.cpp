// Grids of images, and PNG files there and back.
#include <doctest/doctest.h>

#include <vaelib/io/image.hpp>
#include <vaelib/io/png.hpp>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <limits>
#include <string>
#include <vector>

using namespace vaelib;

namespace {

template <typename Action>
std::string sentence(Action action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

Image pattern(int width, int height, int channels) {
  Image image = blank_image(width, height, channels, 0);
  for (std::size_t i = 0; i < image.pixels.size(); ++i) image.pixels[i] = static_cast<std::uint8_t>(i * 37 + i / 251);
  return image;
}

}  // namespace

TEST_CASE("a grid holds each image at its place, scaled, with padding around") {
  const std::vector<float> values{0.0f, 0.2f, 0.4f, 0.6f, 0.8f, 1.0f};  // three images of 1 x 2
  const Image grid = image_grid(values, 1, 2, 1, {.columns = 2, .padding = 3, .scale = 2, .background = 7});
  CHECK(grid.width == 3 + 2 * (4 + 3));
  CHECK(grid.height == 3 + 2 * (2 + 3));
  CHECK(grid.channels == 1);
  CHECK(*grid.at(2, 3) == 7);
  CHECK(*grid.at(3, 3) == 0);
  CHECK(*grid.at(5, 3) == 51);
  CHECK(*grid.at(6, 4) == 51);
  CHECK(*grid.at(7, 4) == 7);
  CHECK(*grid.at(10, 3) == 102);
  CHECK(*grid.at(5, 8) == 255);
  CHECK(*grid.at(10, 8) == 7);  // there is no fourth image
}

TEST_CASE("a grid is near a square unless its columns are given") {
  const std::vector<float> values(10);
  const Image grid = image_grid(values, 1, 1, 1, {.padding = 0});
  CHECK(grid.width == 4);
  CHECK(grid.height == 3);
  CHECK(image_grid(values, 1, 1, 1, {.columns = 99, .padding = 0}).width == 10);
}

TEST_CASE("values are clamped, and what is no number is magenta") {
  constexpr float infinity = std::numeric_limits<float>::infinity();
  std::vector<float> values{-3, 2, infinity, -infinity};
  Image grid = image_grid(values, 2, 2, 1, {.padding = 0});
  CHECK(grid.pixels == std::vector<std::uint8_t>{0, 255, 255, 0});
  values[2] = std::numeric_limits<float>::quiet_NaN();
  grid = image_grid(values, 2, 2, 1, {.padding = 0});
  CHECK(grid.pixels == std::vector<std::uint8_t>{0, 0, 0, 255, 255, 255, 255, 0, 255, 0, 0, 0});
  const std::vector<float> color{0.2f, 0.4f, 0.6f, 0.2f, std::numeric_limits<float>::quiet_NaN(), 0.6f};
  CHECK(image_grid(color, 1, 2, 3, {.padding = 0}).pixels == std::vector<std::uint8_t>{51, 102, 153, 255, 0, 255});
}

TEST_CASE("grids that cannot be drawn are refused") {
  const std::vector<float> values(12);
  CHECK(contains(sentence([&] { image_grid(values, 2, 2, 2); }), "expected 1 or 3 channels"));
  CHECK(contains(sentence([&] { image_grid(values, 0, 2, 1); }), "0 x 2 x 1"));
  CHECK(contains(sentence([&] { image_grid(values, 5, 1, 1); }), "12 values are no whole number of images of 5"));
  CHECK(contains(sentence([&] { image_grid({}, 5, 1, 1); }), "0 values"));
  CHECK_THROWS_AS(image_grid(values, 2, 2, 1, {.scale = 0}), Error);
  CHECK_THROWS_AS(image_grid(values, 2, 2, 1, {.padding = -1}), Error);
  CHECK_THROWS_AS(image_grid(values, 2, 2, 1, {.columns = -1}), Error);
  const std::vector<float> many(40'000);
  CHECK(contains(sentence([&] { image_grid(many, 1, 1, 1, {.scale = 1000}); }), "pixels"));
  CHECK_THROWS_AS(blank_image(0, 5, 1, 0), Error);
  CHECK_THROWS_AS(blank_image(5, 5, 4, 0), Error);
}

TEST_CASE("PNG files give the same pixels back") {
  const std::string path = (std::filesystem::temp_directory_path() / "vaelib_image_test.png").string();
  for (int channels : {1, 3})
    for (int width : {1, 7, 640}) {
      const Image image = pattern(width, 11, channels);
      write_png(path, image);
      const Image again = read_png(path);
      CHECK(again.width == width);
      CHECK(again.height == 11);
      CHECK(again.channels == channels);
      CHECK(again.pixels == image.pixels);
    }
  std::filesystem::remove(path);
}

TEST_CASE("a file cut off anywhere, changed or foreign is refused with a sentence") {
  const auto file = encode_png(pattern(20, 20, 3));
  for (std::size_t length = 0; length + 12 < file.size(); length += 7)  // the last 12 bytes only say that it ends
    CHECK(
        contains(sentence([&] { decode_png(std::span(file).first(length), "x.png"); }), "x.png: no valid PNG file: "));
  auto changed = file;
  changed[file.size() / 2] ^= 0x10;
  CHECK(contains(sentence([&] { decode_png(changed); }), "PNG: no valid PNG file: "));
  auto huge = file;
  huge[16] = huge[20] = 0x7f;  // width and height
  CHECK_THROWS_AS(decode_png(huge), Error);
  CHECK_THROWS_AS(read_png("/nowhere/at/all.png"), Error);
  CHECK_THROWS_AS(write_png("/nowhere/at/all.png", pattern(2, 2, 1)), Error);
  Image wrong = pattern(4, 4, 3);
  wrong.pixels.pop_back();
  CHECK_THROWS_AS(encode_png(wrong), Error);
}
