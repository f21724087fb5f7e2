// A reader of protocol buffers for tests: what is written is taken apart again.
#pragma once

#include <doctest/doctest.h>

#include <cstdint>
#include <cstring>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace io_test {

/// The fields of a message by number, in the order of the file: whole numbers in decimal, others as their bytes.
inline std::multimap<int, std::string> fields(std::string_view message) {
  std::multimap<int, std::string> result;
  std::size_t place = 0;
  const auto varint = [&] {
    std::uint64_t value = 0;
    for (int shift = 0;; shift += 7) {
      const auto byte = static_cast<unsigned char>(message.at(place++));
      value |= std::uint64_t{byte & 127u} << shift;
      if (byte < 128) return value;
    }
  };
  while (place < message.size()) {
    const std::uint64_t tag = varint();
    if (tag % 8 == 0) {
      result.emplace(int(tag / 8), std::to_string(varint()));
      continue;
    }
    const std::size_t size = tag % 8 == 1 ? 8 : tag % 8 == 5 ? 4 : varint();
    REQUIRE(size <= message.size() - place);
    result.emplace(int(tag / 8), std::string(message.substr(place, size)));
    place += size;
  }
  return result;
}
inline std::vector<std::string> repeated(std::string_view message, int number) {
  const auto all = fields(message);
  std::vector<std::string> result;
  for (auto [entry, end] = all.equal_range(number); entry != end; ++entry) result.push_back(entry->second);
  return result;
}
inline std::string field(std::string_view message, int number) {
  const auto all = repeated(message, number);
  REQUIRE(all.size() == 1);
  return all[0];
}
template <class T>
T number(std::string_view bytes) {
  T value;
  REQUIRE(bytes.size() == sizeof value);
  std::memcpy(&value, bytes.data(), sizeof value);
  return value;
}

}  // namespace io_test
