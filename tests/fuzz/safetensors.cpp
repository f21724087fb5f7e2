#include "safetensors.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  return fuzz::read(
      [&] { fuzz::read_tensors(vaelib::SafetensorsFile(vaelib::InputFile("input", fuzz::bytes(data, size)))); });
}

#ifdef VAELIB_FUZZING
extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size, std::size_t most, unsigned seed) {
  return fuzz::mutate_safetensors(data, size, most, seed, false);
}
#endif
