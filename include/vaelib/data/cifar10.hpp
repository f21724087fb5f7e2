// CIFAR-10 in its binary version (Krizhevsky 2009): data_batch_1.bin to data_batch_5.bin and test_batch.bin, each of records
// of one byte of label, 0 to 9, and 32 x 32 bytes of red, of green and of blue. Rows here have the channels last.
// https://www.cs.toronto.edu/~kriz/cifar.html. Nothing is downloaded: whoever has the files names their folder.
#pragma once

#include <vaelib/data/dataset.hpp>
#include <vaelib/io/file.hpp>

namespace vaelib::inline VAELIB_ABI {
namespace data {

namespace detail {

inline constexpr std::size_t cifar_pixels = 32 * 32, cifar_record = 1 + 3 * cifar_pixels;

/// Appends the records of one file.
inline void read_cifar_file(const std::string& path, std::vector<std::uint8_t>& pixels, std::vector<std::int32_t>& labels) {
  const std::string bytes = read_file(path, cifar_record * 1'000'000);
  if (bytes.empty() || bytes.size() % cifar_record != 0)
    fail(path, ": has ", bytes.size(), " bytes, expected a whole number of records of ", cifar_record);
  for (std::size_t begin = 0; begin < bytes.size(); begin += cifar_record) {
    const auto* record = reinterpret_cast<const std::uint8_t*>(bytes.data()) + begin;
    if (record[0] > 9) fail(path, ": byte ", begin, ": the label is ", int{record[0]}, ", expected 0 to 9");
    labels.push_back(record[0]);
    for (std::size_t pixel = 0; pixel < cifar_pixels; ++pixel)
      for (std::size_t channel = 0; channel < 3; ++channel) pixels.push_back(record[1 + channel * cifar_pixels + pixel]);
  }
}

inline Dataset read_cifar_files(const std::string& folder, const std::vector<std::string>& names) {
  std::vector<std::uint8_t> pixels;
  std::vector<std::int32_t> labels;
  for (const auto& name : names) read_cifar_file(folder + '/' + name, pixels, labels);
  return {{32, 32, 3}, std::move(pixels), std::move(labels), 10};
}

}  // namespace detail

inline Split cifar10(const std::string& folder) {
  return {detail::read_cifar_files(folder, {"data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin", "data_batch_4.bin", "data_batch_5.bin"}),
          detail::read_cifar_files(folder, {"test_batch.bin"}),
          "cifar10",
          {"airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"}};
}

}  // namespace data
}  // namespace vaelib::inline VAELIB_ABI
