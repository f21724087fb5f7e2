// What the fuzzing harnesses share. A harness is one file <format>.cpp with LLVMFuzzerTestOneInput: it reads an input
// as a file of its format, and every tensor and value in it. An Error is an answer; anything else that leaves a reader
// is a finding.
#pragma once

#include <vaelib/core/error.hpp>

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);
extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size, std::size_t most, unsigned seed);
extern "C" std::size_t LLVMFuzzerMutate(std::uint8_t* data, std::size_t size, std::size_t most);

namespace fuzz {

inline std::string bytes(const std::uint8_t* data, std::size_t size) {
  return {reinterpret_cast<const char*>(data), size};
}

int read(auto&& reader) {
  try {
    reader();
  } catch (const vaelib::Error& error) {
    if (std::string_view(error.what()).empty()) __builtin_trap();  // an error says something
  }
  return 0;
}

#ifdef VAELIB_FUZZING  // where there is a fuzzer that mutates

/// An input that is changed in parts, each by the fuzzer's own mutations.
struct Input {
  std::uint8_t* data;
  std::size_t most;
  std::string content;

  Input(std::uint8_t* bytes, std::size_t size, std::size_t most_bytes)
      : data(bytes), most(most_bytes), content(fuzz::bytes(bytes, size)) {}

  static std::string mutated(std::string part, std::size_t most) {
    const std::size_t size = part.size();
    part.resize(most > size ? most : size);
    part.resize(LLVMFuzzerMutate(reinterpret_cast<std::uint8_t*>(part.data()), size, part.size()));
    return part;
  }
  std::size_t put() const {
    const std::size_t size = content.size() < most ? content.size() : most;
    content.copy(reinterpret_cast<char*>(data), size);
    return size;
  }
};

/// A little generator of random numbers below n (xorshift).
struct Random {
  std::uint64_t state;
  explicit Random(unsigned seed) : state(seed * 0x9E3779B97F4A7C15u + 1) {}
  std::size_t below(std::size_t n) {
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    return static_cast<std::size_t>((state >> 11) % n);
  }
};

#endif

}  // namespace fuzz
