// Compiled twice, for the baseline and (NATIVE) for this processor: every header, and numbers that both must agree on.
#include <every_header.hpp>

#include <cmath>
#include <vector>

#ifdef NATIVE
std::vector<double> results_native() {
#else
std::vector<double> results_baseline() {
#endif
  std::vector<double> results;
  for (int i = -40; i <= 40; ++i) results.push_back(std::exp(0.25 * i));
  return results;
}
