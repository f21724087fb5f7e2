#include <vaelib/io/checkpoint.hpp>

#include "safetensors.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  return fuzz::read(
      [&] { fuzz::read_tensors(vaelib::load_checkpoint(vaelib::InputFile("input", fuzz::bytes(data, size))).file); });
}

#ifdef VAELIB_FUZZING
extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size, std::size_t most, unsigned seed) {
  const std::size_t mutated = fuzz::mutate_safetensors(data, size, most, seed, true);
  if (mutated < 4 || seed % 32 == 0) return mutated;
  const auto checksum = static_cast<std::uint32_t>(crc32_z(0, data, mutated - 4));
  std::memcpy(data + mutated - 4, &checksum, 4);
  return mutated;
}
#endif
