#include <vaelib/io/point_files.hpp>

#include "harness.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  return fuzz::read([&] {
    const auto points = vaelib::read_xyz(vaelib::InputFile("input", fuzz::bytes(data, size)));
    if (points.size() % 3 != 0 || points.size() > 3 * size) __builtin_trap();
    for (const float x : points)
      if (!std::isfinite(x)) __builtin_trap();
  });
}
