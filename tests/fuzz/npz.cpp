#include <vaelib/io/npz.hpp>

#include "harness.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  return fuzz::read([&] {
    const vaelib::InputFile file("input", fuzz::bytes(data, size));
    std::size_t read = 0;
    for (const std::string& name : vaelib::npz_names(file))
      if (++read <= 8) fuzz::read([&] { vaelib::read_npz(file, name); });
  });
}

#ifdef VAELIB_FUZZING
namespace {

/// Puts the sizes and checksums of the entries' content into the directory.
void repair(std::string& zip, std::size_t most_inflated) {
  const auto number = [&](std::size_t at, int width) {
    std::size_t value = 0;
    for (int i = 0; i < width && at + i < zip.size(); ++i)
      value |= std::size_t{static_cast<unsigned char>(zip[at + i])} << 8 * i;
    return value;
  };
  const auto set = [&](std::size_t at, std::size_t value) {
    for (int i = 0; i < 4 && at + i < zip.size(); ++i) zip[at + i] = static_cast<char>(value >> 8 * i);
  };
  const std::size_t directory = zip.find("PK\x01\x02"), end = zip.rfind("PK\x05\x06");
  if (directory == std::string::npos || end == std::string::npos || end < directory) return;
  set(end + 12, end - directory), set(end + 16, directory);
  for (std::size_t at = directory, entries = 0; entries < 8 && zip.compare(at, 4, "PK\x01\x02") == 0; ++entries) {
    const std::size_t local = number(at + 42, 4), begin = local + 30 + number(local + 26, 2) + number(local + 28, 2);
    const std::size_t packed = number(at + 20, 4);
    if (begin < zip.size() && packed <= zip.size() - begin) {
      std::string content = zip.substr(begin, packed);
      if (number(at + 10, 2) == 8) {
        std::string inflated(most_inflated, '\0');
        z_stream stream{};
        if (inflateInit2(&stream, -MAX_WBITS) == Z_OK) {
          stream.next_in = reinterpret_cast<Bytef*>(content.data()),
          stream.avail_in = static_cast<uInt>(content.size());
          stream.next_out = reinterpret_cast<Bytef*>(inflated.data()),
          stream.avail_out = static_cast<uInt>(inflated.size());
          inflate(&stream, Z_FINISH);
          inflated.resize(inflated.size() - stream.avail_out);
          inflateEnd(&stream);
        }
        content = inflated;
      }
      set(at + 16, crc32_z(0, reinterpret_cast<const Bytef*>(content.data()), content.size()));
      set(at + 24, content.size());
    }
    at += 46 + number(at + 28, 2) + number(at + 30, 2) + number(at + 32, 2);
    if (at >= zip.size()) return;
  }
}

}  // namespace

extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size, std::size_t most, unsigned seed) {
  fuzz::Input input(data, LLVMFuzzerMutate(data, size, most), most);
  if (seed % 8 != 0) repair(input.content, 1 << 16);
  return input.put();
}
#endif
