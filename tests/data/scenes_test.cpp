#include <doctest/doctest.h>

#include <vaelib/data/patches.hpp>
#include <vaelib/data/scenes.hpp>
#include <vaelib/io/png.hpp>

#include <filesystem>
#include <numeric>

using namespace vaelib;

namespace {
std::vector<float> rows_of(const auto& source, std::uint64_t epoch, std::vector<std::uint32_t> rows) {
  std::vector<float> pixels(rows.size() * std::size_t(source.shape().size()));
  std::vector<std::int32_t> labels(rows.size());
  source.fill(epoch, rows, pixels.data(), labels.data());
  return pixels;
}
}  // namespace

TEST_CASE("scenes show what they say, others in each epoch unless fixed") {
  const auto split = data::scenes(16, 3);
  CHECK(split.train.shape() == Shape{16, 16, 3});
  const auto a = rows_of(split.train, 0, {5, 6}), b = rows_of(split.train, 1, {5, 6});
  CHECK(a != b);
  CHECK(a == rows_of(split.train, 0, {5, 6}));
  CHECK(rows_of(split.test, 0, {5}) == rows_of(split.test, 9, {5}));
  CHECK(std::vector<float>(a.begin(), a.begin() + 768) == rows_of(split.train, 0, {5}));
  for (const float v : a) CHECK((v >= 0 && v <= 1));
  // one object without background: its colour covers its centre
  data::Scene scene{};
  scene.count = 1;
  scene.objects[0] = {{0, 1.0f, 0.0f, 0.5f, 0.5f}, {1.0f, 0.2f, 0.0f}};
  std::vector<float> image(768), cover(256);
  data::draw_scene(split.train.shapes(), scene, image.data(), cover.data());
  const float* centre = &image[(8 * 16 + 8) * 3];
  CHECK(centre[0] == 1);
  CHECK(centre[1] == doctest::Approx(0.2).epsilon(0.01));
  CHECK(image[0] == 0);
  CHECK_THROWS_AS(data::scenes(4), Error);
}

TEST_CASE("patches are cut out of photographs") {
  const auto folder = std::filesystem::temp_directory_path() / ("vaelib_patches_" + std::to_string(::getpid()));
  std::filesystem::create_directories(folder);
  Image image = blank_image(20, 12, 3, 0);
  for (int y = 0; y < 12; ++y)
    for (int x = 0; x < 20; ++x) image.at(x, y)[0] = std::uint8_t(y * 20 + x);  // each pixel is told by its red
  write_png((folder / "a.png").string(), image);
  const data::Patches patches(folder.string(), {.size = 8, .patches = 50, .jitter = 0, .seed = 1});
  const auto plain = patches.with({.patches = 50, .seed = 1, .fixed = true});
  std::vector<std::uint32_t> all(50);
  std::iota(all.begin(), all.end(), 0u);
  const auto cut = rows_of(plain, 0, all), mirrored = rows_of(patches, 0, all);
  CHECK(cut == rows_of(plain, 7, all));
  CHECK(mirrored != rows_of(patches, 1, all));
  int turned = 0;
  for (std::size_t p = 0; p < 50; ++p) {
    const auto red = [&](const std::vector<float>& from, int x, int y) { return int(std::lround(from[p * 192 + std::size_t(y * 8 + x) * 3] * 255)); };
    const int corner = red(cut, 0, 0);
    for (int y = 0; y < 8; ++y)
      for (int x = 0; x < 8; ++x) CHECK(red(cut, x, y) == corner + y * 20 + x);
    CHECK(red(mirrored, 1, 0) - red(mirrored, 0, 0) == (red(mirrored, 7, 0) < red(mirrored, 0, 0) ? -1 : 1));
    turned += red(mirrored, 7, 0) < red(mirrored, 0, 0);
  }
  CHECK((turned > 10 && turned < 40));
  for (const float v : rows_of(data::Patches(folder.string(), {.size = 8, .patches = 50, .jitter = 0.9f}), 0, all)) CHECK((v >= 0 && v <= 1));
  CHECK_THROWS_WITH(data::Patches(folder.string(), {.size = 16}), doctest::Contains("a.png: is 20 x 12, a patch is 16 x 16"));
  CHECK_THROWS_WITH(data::Patches(folder.string(), {.size = 600}), doctest::Contains("expected 1 to largest_side"));
  std::filesystem::remove_all(folder);
}
