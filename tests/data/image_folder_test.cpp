#include <vaelib/data/image_folder.hpp>

#include "../io/faults.hpp"
#include "../io/jpeg_files.hpp"

using namespace vaelib;
using namespace io_test;

namespace {

void write_image(const std::string& path, const Image& image) {
  if (path.ends_with("g") && !path.ends_with("png")) {
    write_file_atomically(path, encode_jpeg(image));
  } else {
    write_png(path, image);
  }
}

}  // namespace

TEST_CASE("a folder of photographs of all sizes") {
  const TemporaryFolder folder;
  write_image(folder / "b.png", blank_image(30, 20, 3, 200));
  write_image(folder / "a.JPG", blank_image(5, 50, 1, 100));
  write_image(folder / "c.jpeg", blank_image(8, 8, 3, 50));
  write_raw(folder / "notes.txt", "no image");
  for (const int threads : {1, 2, 5}) {
    const data::ImageFolder read = data::image_folder(folder.path, {.height = 8, .width = 6, .threads = threads});
    CHECK(read.images.shape() == Shape{8, 6, 3});
    CHECK(read.images.size() == 3);
    CHECK(read.images.classes() == 0);
    CHECK(read.class_names.empty());
    CHECK(read.skipped.empty());
    const int expected[] = {100, 200, 50};  // by name: a, b, c
    for (std::size_t i = 0; i < 3; ++i)
      for (const std::size_t k : {0, 77, 143}) CHECK(std::abs(read.images.pixels()[i * 144 + k] - expected[i]) <= 1);
  }
  CHECK(data::image_folder(folder.path, {.channels = 1}).images.shape() == Shape{64, 64, 1});
}

TEST_CASE("subfolders are classes, and what cannot be read is told") {
  const TemporaryFolder folder;
  for (const char* name : {"dogs", "cats", ".hidden"}) create_directories(folder / name);
  write_image(folder / "dogs/1.png", blank_image(4, 4, 3, 10));
  write_image(folder / "cats/2.jpg", blank_image(4, 4, 3, 20));
  write_image(folder / "cats/3.png", blank_image(4, 4, 3, 30));
  write_raw(folder / "cats/1.png", "no PNG");
  write_raw(folder / "dogs/empty.jpg", "");
  const data::ImageFolder read = data::image_folder(folder.path, {.height = 2, .width = 2});
  CHECK(read.class_names == std::vector<std::string>{"cats", "dogs"});
  REQUIRE(read.images.size() == 3);
  CHECK(read.images.classes() == 2);
  CHECK(read.images.labels()[0] == 0);
  CHECK(read.images.labels()[2] == 1);
  CHECK(read.images.pixels()[12] == 30);
  REQUIRE(read.skipped.size() == 2);
  CHECK(read.skipped[0].path == folder / "cats/1.png");
  CHECK(read.skipped[0].reason.find("no valid PNG file") != std::string::npos);
  CHECK(read.skipped[1].reason.find("is empty") != std::string::npos);
}

TEST_CASE("folders without images") {
  const TemporaryFolder folder;
  CHECK(error_of([&] { data::image_folder(folder / "none"); }).ends_with(": is no folder of images"));
  CHECK(error_of([&] { data::image_folder(folder.path); }).find("has no file .png") != std::string::npos);
  write_raw(folder / "x.png", "no PNG");
  CHECK(error_of([&] { data::image_folder(folder.path); }).find("none of its 1 images can be read; the first: ") != std::string::npos);
  CHECK(error_of([&] { data::image_folder(folder.path, {.channels = 2}); }).ends_with("64 x 64 x 2, expected 1 or 3 channels"));
}

TEST_CASE("images that are decoded when they are asked for are those in memory") {
  const TemporaryFolder folder;
  for (const char* name : {"a", "b"}) create_directories(folder / name);
  for (int i = 0; i < 6; ++i) write_image(folder / (i % 2 ? "a/" : "b/") + std::to_string(i) + ".png", blank_image(10 + i, 9, 3, std::uint8_t(i * 30)));
  write_raw(folder / "a/broken.png", "no PNG");
  const data::ImageFolderOptions options{.height = 4, .width = 4, .channels = 1};
  const data::ImageFolder memory = data::image_folder(folder.path, options);
  const data::ImageFiles files(folder.path, options);
  CHECK(files.size() == 6);
  CHECK(files.shape() == memory.images.shape());
  CHECK(files.classes() == 2);
  CHECK(files.class_names == memory.class_names);
  CHECK(files.skipped.size() == 1);
  const std::vector<std::uint32_t> rows{5, 0, 3, 3};
  std::vector<float> expected(4 * 16), found(4 * 16);
  std::vector<std::int32_t> expected_labels(4), found_labels(4);
  memory.images.fill(0, rows, expected.data(), expected_labels.data());
  files.fill(0, rows, found.data(), found_labels.data());
  CHECK(found == expected);
  CHECK(found_labels == expected_labels);

  write_raw(folder / "a/1.png", "gone");
  const std::vector<std::uint32_t> first{0};
  CHECK(error_of([&] { files.fill(0, first, found.data(), nullptr); }).find("no valid PNG file") != std::string::npos);
}
