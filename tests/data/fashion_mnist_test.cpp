// Readers of MNIST's and Fashion-MNIST's files, on files made here and on Debian's where they are installed.
#include <doctest/doctest.h>

#include <vaelib/data/fashion_mnist.hpp>

#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

using namespace vaelib;

namespace {

/// A folder of its own, removed at the end.
struct Folder {
  std::string path = (std::filesystem::temp_directory_path() / "vaelib_mnist_XXXXXX").string();
  Folder() { REQUIRE(mkdtemp(path.data()) != nullptr); }
  ~Folder() { std::filesystem::remove_all(path); }

  void write(const std::string& name, std::vector<std::uint32_t> shape, int modulus = 10) const {
    std::string bytes{0, 0, 8, static_cast<char>(shape.size())};
    std::uint32_t values = 1;
    for (auto extent : shape) {
      for (int shift : {24, 16, 8, 0}) bytes += static_cast<char>(extent >> shift);
      values *= extent;
    }
    for (std::uint32_t i = 0; i < values; ++i) bytes += static_cast<char>(i % static_cast<std::uint32_t>(modulus));
    std::ofstream(path + "/" + name, std::ios::binary) << bytes;
  }

  void write_all() const {
    write("train-images-idx3-ubyte", {30, 28, 28}, 251);
    write("train-labels-idx1-ubyte", {30});
    write("t10k-images-idx3-ubyte", {20, 28, 28}, 241);
    write("t10k-labels-idx1-ubyte", {20});
  }

  std::string error() const {
    try {
      data::mnist(path);
    } catch (const Error& error) {
      return error.what();
    }
    return "no error";
  }
};

bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

}  // namespace

TEST_CASE("MNIST's four files are read") {
  const Folder folder;
  folder.write_all();
  const auto split = data::mnist(folder.path);
  CHECK(split.train.size() == 30);
  CHECK(split.test.size() == 20);
  CHECK(split.train.shape() == Shape(28, 28, 1));
  CHECK(split.train.classes() == 10);
  CHECK(split.train.labels()[13] == 3);
  CHECK(split.test.pixels()[784] == 784 % 241);
}

TEST_CASE("a missing file is named, with what is expected") {
  const Folder folder;
  CHECK(contains(folder.error(), folder.path + ": no file train-images-idx3-ubyte or train-images-idx3-ubyte.gz"));
  CHECK_FALSE(data::has_fashion_mnist(folder.path));
  folder.write_all();
  CHECK(data::has_fashion_mnist(folder.path));
  std::filesystem::remove(folder.path + "/t10k-labels-idx1-ubyte");
  CHECK(contains(folder.error(), "no file t10k-labels-idx1-ubyte or"));
  CHECK_FALSE(data::has_fashion_mnist(folder.path));
  try {
    data::fashion_mnist(folder.path);
    FAIL("no error");
  } catch (const Error& error) {
    CHECK(contains(error.what(), "apt install dataset-fashion-mnist"));
  }
}

TEST_CASE("files that do not belong together are refused") {
  const Folder folder;
  folder.write_all();
  folder.write("train-labels-idx1-ubyte", {29});
  CHECK(contains(folder.error(), "29 labels for 30 images"));
  folder.write("train-labels-idx1-ubyte", {30}, 11);
  CHECK(contains(folder.error(), "train-labels-idx1-ubyte: label 10 is 10, expected 0 to 9"));
  folder.write("train-labels-idx1-ubyte", {30, 1});
  CHECK(contains(folder.error(), "2 dimensions, expected 1"));
  folder.write("train-images-idx3-ubyte", {30, 28, 27});
  CHECK(contains(folder.error(), "the shape is 30 x 28 x 27, expected images x 28 x 28"));
  folder.write("train-images-idx3-ubyte", {30 * 784});
  CHECK(contains(folder.error(), "the shape is 23520, expected images x 28 x 28"));
}

TEST_CASE("Fashion-MNIST as Debian packages it" * doctest::skip(!data::has_fashion_mnist())) {
  const auto split = data::fashion_mnist();
  CHECK(split.train.size() == 60'000);
  CHECK(split.test.size() == 10'000);
  CHECK(split.name == "fashion-mnist");
  std::vector<int> counts(10);
  for (auto label : split.train.labels()) ++counts[static_cast<std::size_t>(label)];
  CHECK(counts == std::vector<int>(10, 6000));
  double mean = 0;
  for (auto pixel : split.train.pixels()) mean += pixel;
  CHECK(mean / (60'000.0 * 784 * 255) == doctest::Approx(0.2860).epsilon(1e-3));
}
