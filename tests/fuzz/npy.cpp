#include <vaelib/io/npy.hpp>

#include "harness.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  return fuzz::read([&] {
    const vaelib::NpyArray array = vaelib::read_npy(vaelib::InputFile("input", fuzz::bytes(data, size)));
    std::uint64_t count = 1;
    for (const std::int64_t extent : array.shape) count *= static_cast<std::uint64_t>(extent);
    if (count != array.values.size()) __builtin_trap();
  });
}

#ifdef VAELIB_FUZZING
/// The header or the values alone are mutated, and the length of the header fits again.
extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size, std::size_t most, unsigned seed) {
  fuzz::Input input(data, size, most);
  const std::size_t length = size < 10 ? 0 : data[8] | data[9] << 8;
  if (size < 10 || data[6] != 1 || length > size - 10 || seed % 8 == 0) return LLVMFuzzerMutate(data, size, most);
  std::string header = input.content.substr(10, length), values = input.content.substr(10 + length);
  std::string& part = seed % 8 < 6 || values.empty() ? header : values;
  part = fuzz::Input::mutated(part, part.size() + 32);
  input.content.resize(8);
  input.content += static_cast<char>(header.size() & 255);
  input.content += static_cast<char>(header.size() >> 8);
  input.content += header + values;
  return input.put();
}
#endif
