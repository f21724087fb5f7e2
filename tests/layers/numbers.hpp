// Random numbers for the tests of layers, and how far two results are apart.
#pragma once

#include <doctest/doctest.h>
#include <vaelib/core/random.hpp>

#include <cmath>
#include <vector>

namespace layer_test {

using Floats = std::vector<float>;

inline Floats normals(long count, std::uint64_t seed) {
  Floats numbers(count);
  vaelib::normal(vaelib::RandomKey{.seed = seed}, 0, 1, int(count), numbers.data());
  return numbers;
}
/// The largest difference, in units of the largest number wanted, or of `least` where all are smaller.
inline double difference(const Floats& found, const Floats& wanted, double least = 1e-30) {
  REQUIRE(found.size() == wanted.size());
  double largest = least, worst = 0;
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    largest = std::max(largest, std::abs(double(wanted[i])));
    const double d = std::abs(double(found[i]) - wanted[i]);
    worst = d == d ? std::max(worst, d) : INFINITY;
  }
  return worst / largest;
}

}  // namespace layer_test
