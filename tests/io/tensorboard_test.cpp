// What is written is taken apart again. tests/interchange/check_run.py has TensorBoard itself read a run.
#include <vaelib/io/tensorboard.hpp>

#include "faults.hpp"
#include "protobuf_reader.hpp"

using namespace vaelib;
using namespace io_test;

namespace {

std::uint64_t little_endian(std::string_view bytes) {
  std::uint64_t value = 0;
  for (std::size_t i = bytes.size(); i-- > 0;) value = value << 8 | static_cast<unsigned char>(bytes[i]);
  return value;
}
std::uint64_t masked(std::string_view bytes) {
  const std::uint32_t crc = detail::crc32c(bytes);
  return std::uint32_t((crc >> 15 | crc << 17) + 0xa282ead8u);
}

std::vector<std::string> events(const std::string& path) {
  const std::string file = read_file(path, 1 << 20);
  std::vector<std::string> result;
  for (std::string_view rest = file; !rest.empty();) {
    const auto length = little_endian(rest.substr(0, 8));
    REQUIRE(little_endian(rest.substr(8, 4)) == masked(rest.substr(0, 8)));
    result.emplace_back(rest.substr(12, length));
    REQUIRE(little_endian(rest.substr(12 + length, 4)) == masked(result.back()));
    rest.remove_prefix(16 + length);
  }
  return result;
}

}  // namespace

TEST_CASE("the checksum of iSCSI") {
  CHECK(detail::crc32c("123456789") == 0xe3069283u);
  CHECK(detail::crc32c(std::string(32, '\0')) == 0x8a9136aau);
  CHECK(detail::crc32c("") == 0);
}

TEST_CASE("scalars, histograms and images stand in the file") {
  const TemporaryFolder folder;
  EventFile file(folder / "logs/below");
  file.scalar(300, "train_loss", -2.5);
  file.histogram(1, "mu", std::vector<float>{-1, 0, 0, 2, NAN, INFINITY});
  file.histogram(1, "none", {});
  const std::vector<std::uint8_t> png{1, 2, 3};
  file.image(2, "samples", 5, 4, 3, png);
  const auto all = events(file.path());  // complete while the file is still open
  REQUIRE(all.size() == 5);
  CHECK(field(all[0], 3) == "brain.Event:2");
  CHECK(field(all[1], 2) == "300");
  const std::string scalar = field(field(all[1], 5), 1);
  CHECK(field(scalar, 1) == "train_loss");
  CHECK(number<float>(field(scalar, 2)) == -2.5f);

  const std::string histogram = field(field(field(all[2], 5), 1), 5);
  const double expected[] = {-1, 2, 4, 1, 5};  // least, largest, count, sum, sum of squares
  for (int k = 0; k < 5; ++k) CHECK(number<double>(field(histogram, k + 1)) == expected[k]);
  const std::string limits = field(histogram, 6), counts = field(histogram, 7);
  REQUIRE(limits.size() == 30 * 8);
  REQUIRE(counts.size() == 30 * 8);
  CHECK(number<double>(counts.substr(0, 8)) == 1);
  CHECK(number<double>(counts.substr(29 * 8)) == 1);
  CHECK(number<double>(limits.substr(29 * 8)) == 2);

  const std::string image = field(field(field(all[4], 5), 1), 4);
  CHECK(field(image, 1) == "4");
  CHECK(field(image, 2) == "5");
  CHECK(field(image, 3) == "3");
  CHECK(field(image, 4) == "\x01\x02\x03");

  const EventFile another(folder / "logs/below");  // a run that goes on
  CHECK(another.path() != file.path());
}

TEST_CASE("a folder that cannot be made") {
  const TemporaryFolder folder;
  write_raw(folder / "file", "x");
  CHECK(error_of([&] { EventFile(folder / "file/logs"); }).find("cannot make this folder") != std::string::npos);
}
