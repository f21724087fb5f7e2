// One program of two translation units that include every header, one of them compiled with -march=native: it links, and both
// units compute the same within rounding (the compiler may contract a * b + c where the processor has it).
#include <cmath>
#include <cstdio>
#include <vector>

std::vector<double> results_baseline();
std::vector<double> results_native();

int main() {
  const std::vector<double> baseline = results_baseline();
  const std::vector<double> native = results_native();
  if (baseline.empty() || baseline.size() != native.size()) {
    std::printf("%zu and %zu results\n", baseline.size(), native.size());
    return 1;
  }
  for (std::size_t i = 0; i < baseline.size(); ++i) {
    if (!(std::abs(baseline[i] - native[i]) <= 1e-5 * (1 + std::abs(baseline[i])))) {
      std::printf("result %zu: %.9g and %.9g\n", i, baseline[i], native[i]);
      return 1;
    }
  }
  return 0;
}
