// Shared by the tests of products and convolutions: numbers, comparisons, and every set of kernels that can run here.
#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vaelib/backend/cpu/microkernel.hpp>
#include <vaelib/backend/cpu/product.hpp>
#include <vector>

/// Numbers in [-0.5, 0.5) without structure.
inline std::vector<float> values(long count, std::uint32_t seed) {
  std::vector<float> result(static_cast<std::size_t>(count));
  std::uint32_t state = seed * 2654435761u + 1;
  for (float& value : result) {
    state = state * 1664525u + 1013904223u;
    value = static_cast<float>(state >> 8) / 16777216.0f - 0.5f;
  }
  return result;
}

/// NaN if any is NaN.
inline double largest_error(const std::vector<float>& found, const std::vector<double>& expected, double before = 0) {
  double largest = 0;
  for (std::size_t i = 0; i < found.size(); ++i) {
    const double error = std::fabs(found[i] - expected[i] - before);
    if (!(error <= largest)) largest = error;
  }
  return largest;
}

inline bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0);
}

#if defined(__x86_64__)
// The loops of AVX-512 in AVX2's instructions: slow, but its tiles and panels are checked on any processor.
__attribute__((target("avx2,fma"), flatten)) inline void multiply_16_lanes_avx2(const vaelib::cpu::Block& block) {
  vaelib::cpu::detail::multiply<16>(block);
}
__attribute__((target("avx2,fma"), flatten)) inline void multiply_4_lanes_fma(const vaelib::cpu::Block& block) {
  vaelib::cpu::detail::multiply<4>(block);
}
inline constexpr vaelib::cpu::Kernels kernels_16_lanes_avx2{
    "16 lanes in AVX2", 16, vaelib::cpu::detail::panel_columns<16>, multiply_16_lanes_avx2};
inline constexpr vaelib::cpu::Kernels kernels_4_lanes_fma{"4 lanes with FMA", 4, vaelib::cpu::detail::panel_columns<4>,
                                                          multiply_4_lanes_fma};
#endif

template <class F>
void with_kernels(const vaelib::cpu::Kernels& chosen, F&& f) {
  const vaelib::cpu::Kernels* usual = vaelib::cpu::kernels();
  vaelib::cpu::kernels() = &chosen;
  f();
  vaelib::cpu::kernels() = usual;
}

/// Kernels that have fused multiply-add, and so give the same bits.
template <class F>
void for_each_fused_kernels(F&& f) {
#if defined(__x86_64__)
  using namespace vaelib::cpu;
  if (has_avx2())
    for (const Kernels* chosen : {&kernels_avx2, &kernels_16_lanes_avx2, &kernels_4_lanes_fma})
      with_kernels(*chosen, f);
  if (has_avx512()) with_kernels(kernels_avx512, f);
#else
  f();
#endif
}

template <class F>
void for_each_kernels(F&& f) {
  with_kernels(vaelib::cpu::kernels_4_lanes, f);
  for_each_fused_kernels(f);
}

/// A Finish that multiplies by 3, adds a number of the place, and counts the calls for each element.
struct FinishCheck {
  std::vector<std::atomic<int>> calls;
  int columns;

  FinishCheck(std::size_t size, int row_size) : calls(size), columns(row_size) {}

  static float changed(float value, long row, int column) {
    return value * 3 + static_cast<float>(row % 100) + static_cast<float>(column) / 8;
  }
  vaelib::cpu::Finish finish() const {
    return {[](const void* context, float* c, long ldc, int rows, int block_columns, long row0, int column0) {
              auto& self = *static_cast<FinishCheck*>(const_cast<void*>(context));
              for (int i = 0; i < rows; ++i)
                for (int j = 0; j < block_columns; ++j) {
                  c[i * ldc + j] = changed(c[i * ldc + j], row0 + i, column0 + j);
                  ++self.calls[static_cast<std::size_t>((row0 + i) * self.columns + column0 + j)];
                }
            },
            this};
  }
  bool once_each(const std::vector<float>& plain, const std::vector<float>& finished) const {
    for (std::size_t i = 0; i < calls.size(); ++i) {
      const auto width = static_cast<std::size_t>(columns);
      if (calls[i] != 1) return false;
      if (finished[i] != changed(plain[i], static_cast<long>(i / width), static_cast<int>(i % width))) return false;
    }
    return true;
  }
};
