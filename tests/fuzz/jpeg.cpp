#include <vaelib/io/jpeg.hpp>

#include "images.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  return fuzz::read_image([&] { return vaelib::decode_jpeg({data, size}, "input"); });
}
