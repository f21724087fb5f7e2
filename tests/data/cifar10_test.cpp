// The data themselves are not packaged: files made in their format.
#include <vaelib/data/cifar10.hpp>

#include "../io/faults.hpp"

using namespace vaelib;
using namespace io_test;

namespace {

/// `count` records; of image i, byte k of channel c is (i + 10 c + k) mod 256.
std::string records(int count, int first_label) {
  std::string bytes;
  for (int i = 0; i < count; ++i) {
    bytes += char((first_label + i) % 10);
    for (int c = 0; c < 3; ++c)
      for (int k = 0; k < 1024; ++k) bytes += char(i + 10 * c + k);
  }
  return bytes;
}

}  // namespace

TEST_CASE("CIFAR-10") {
  const TemporaryFolder folder;
  for (int batch = 1; batch <= 5; ++batch) write_raw(folder / ("data_batch_" + std::to_string(batch) + ".bin"), records(2, batch));
  CHECK(error_of([&] { data::cifar10(folder.path); }).ends_with("test_batch.bin: cannot open: No such file or directory"));
  write_raw(folder / "test_batch.bin", records(3, 7));
  const data::Split split = data::cifar10(folder.path);
  CHECK(split.train.size() == 10);
  CHECK(split.test.size() == 3);
  CHECK(split.train.shape() == Shape{32, 32, 3});
  CHECK(split.train.labels()[2] == 2);
  CHECK(split.test.labels()[2] == 9);
  const auto pixels = split.test.pixels();
  for (std::size_t k : {0, 1, 33, 1023})
    for (std::size_t c = 0; c < 3; ++c) CHECK(pixels[3072 + 3 * k + c] == (1 + 10 * c + k) % 256);

  write_raw(folder / "test_batch.bin", records(1, 0) + "x");
  CHECK(error_of([&] { data::cifar10(folder.path); }).ends_with("has 3074 bytes, expected a whole number of records of 3073"));
  write_raw(folder / "test_batch.bin", "\x0b" + records(1, 0).substr(1));
  CHECK(error_of([&] { data::cifar10(folder.path); }).ends_with("byte 0: the label is 11, expected 0 to 9"));
}
