// Finite scalar quantization; Mentzer et al. 2023, "Finite scalar quantization: VQ-VAE made simple".
//
//   b_j = tanh(x_j + atanh(o_j / h_j)) h_j - o_j      h_j = (L_j - 1) (1 + 1/1000) / 2, o_j = 1/2 for even L_j, else 0
//   q_j = round(b_j) / floor(L_j / 2)                 straight through the rounding
//
// Each channel takes one of L_j values, so the codebook is the grid of all their combinations: nothing is learned, nothing can
// die, and there is no loss. The code is sum_j (round(b_j) + floor(L_j / 2)) prod_{i < j} L_i. Channels beyond the levels are refused;
// Projected brings any width to that of the levels.
#pragma once

#include <vaelib/quantizers/quantizer.hpp>

#include <array>
#include <cmath>

namespace vaelib::inline VAELIB_ABI {

class FiniteScalar {
 public:
  static constexpr int most_channels = 16;

  FiniteScalar() = default;
  FiniteScalar(std::initializer_list<int> levels) { set(levels); }
  /// Any range of integers.
  template <class Range>
  explicit FiniteScalar(const Range& levels) {
    set(levels);
  }

  int code_count() const {
    int product = 1;
    for (int j = 0; j < channels; ++j) product *= level[j];
    return product;
  }
  static constexpr int per_vector() { return 1; }
  int width() const { return channels; }

  [[gnu::cold]] void build(Shape in) const {
    if (channels == 0) fail("vaelib: FiniteScalar has no levels; FiniteScalar{8, 8, 8} has 512 codes");
    if (in.channels != channels) fail("vaelib: FiniteScalar has ", channels, " levels, and the vectors have ", in.channels, " channels");
  }
  void fields(auto&&) {}

  template <class S, class R, Shape A>
  auto quantize(S& step, Var<R, A> x) const {
    const long rows = vector_count(x);
    auto y = step.template variable<A>(x.space(), x.shape, step.needs_gradient(x));
    auto* codes = step.arena.template allocate<std::int32_t>(rows);
    R* slopes = step.arena.template allocate<R>(x.size());
    const auto errors = step.scratch(rows);
    step.backend.parallel((rows + 63) / 64, [&](long block) {
      for (long r = block * 64; r < std::min(rows, (block + 1) * 64); ++r)
        codes[r] = quantize_row(x.value() + r * channels, y.value() + r * channels, slopes + r * channels, errors.data[r]);
    });
    double squares = 0;
    for (long r = 0; r < rows; ++r) squares += double(errors.data[r]);
    if (y.needs_gradient())
      step.record({y.node}, [=, count = x.size()](S& s) {
        if (auto t = s.target(x)) s.backend.elements(count, [=, g = s.gradient(y)](auto at) VAELIB_LOOP { at.store(t.data, t.add, at.load(g) * at.load(slopes)); });
      });
    const auto zero = detail::known(step, 0), error = detail::known(step, x.size() > 0 ? squares / double(x.size()) : 0.0);
    return Quantized<Var<R, A>, Var<R, Shape{1}>>{y, codes, rows, zero, error};
  }

  template <Shape A, class S>
  auto lookup(S& step, const RowSpace* space, Shape shape, const std::int32_t* codes) const {
    using R = typename S::Real;
    auto y = step.template variable<A>(space, shape, false);
    detail::check_codes(vector_count(y), codes, code_count());
    for (long r = 0; r < vector_count(y); ++r) {
      int rest = codes[r];
      for (int j = 0; j < channels; ++j, rest /= level[j - 1]) y.value()[r * channels + j] = R(rest % level[j] - level[j] / 2) / R(level[j] / 2);
    }
    return y;
  }

 private:
  template <class Range>
  [[gnu::cold]] void set(const Range& levels) {
    double product = 1;
    for (const int l : levels) {
      if (l < 2) fail("vaelib: level ", channels, " of FiniteScalar is ", l, ", expected at least 2");
      if (channels == most_channels) fail("vaelib: FiniteScalar has at most ", most_channels, " levels");
      level[channels++] = l;
      product *= l;
    }
    if (product > 0x7fffffff) fail("vaelib: the levels of FiniteScalar make ", product, " codes, expected less than 2^31");
  }

  /// Its code.
  template <class R>
  std::int32_t quantize_row(const R* x, R* y, R* slopes, R& squared_error) const {
    std::int32_t code = 0, place = 1;
    squared_error = 0;
    for (int j = 0; j < channels; ++j) {
      const R half = R(level[j] - 1) * R(1.001) / 2, offset = level[j] % 2 == 0 ? R(0.5) : R(0), steps = R(level[j] / 2);
      const R t = std::tanh(x[j] + std::atanh(offset / half)), bounded = t * half - offset, rounded = std::nearbyint(bounded);
      y[j] = rounded / steps;
      slopes[j] = (1 - t * t) * half / steps;
      squared_error += (bounded - rounded) * (bounded - rounded) / (steps * steps);
      const R top = R(level[j] - 1) - steps;  // NaN has no code: it takes the lowest
      code += place * std::int32_t((rounded >= -steps ? std::min(rounded, top) : -steps) + steps);
      place *= level[j];
    }
    return code;
  }

  std::array<int, most_channels> level{};
  int channels = 0;
};

}  // namespace vaelib::inline VAELIB_ABI
