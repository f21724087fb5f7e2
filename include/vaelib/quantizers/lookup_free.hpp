// Lookup-free quantization; Yu et al. 2024, "Language model beats diffusion: tokenizer is key to visual generation", section 3.
//
//   q_j = sign(x_j)      code = sum_j [x_j > 0] 2^j      2^D codes of D channels, none of which is stored
//   loss = commitment mean (x - sg(q))^2 + spread (log K - H(mean_i p_i)) + focus mean_i H(p_i)       p_ik = softmax_k(-|x_i - e_k|^2 / T)
#pragma once

#include <vaelib/quantizers/assignment_entropy.hpp>

namespace vaelib::inline VAELIB_ABI {

struct LookupFreeOptions {
  GradientEstimator gradient = GradientEstimator::straight_through;
  Schedule commitment = 0.25f, spread = 0.1f, focus = 0.1f;  ///< weights; the entropies are computed over all 2^D codes
  Schedule temperature = 1;                                  ///< T
};

struct LookupFree {
  LookupFreeOptions options{};
  int width = 0;

  static constexpr int most_channels = 18;
  int code_count() const { return 1 << width; }
  static constexpr int per_vector() { return 1; }

  [[gnu::cold]] void build(Shape in) {
    if (in.channels < 1 || in.channels > most_channels) fail("vaelib: LookupFree takes vectors of 1 to ", most_channels, " channels, found ", in.channels);
    width = in.channels;
  }
  void fields(auto&&) {}

  template <class S, class R, Shape A>
  auto quantize(S& step, Var<R, A> x) const {
    const long rows = vector_count(x);
    auto* codes = step.arena.template allocate<std::int32_t>(rows);
    R* q = step.arena.template allocate<R>(x.size());
    double squares = 0;
    for (long r = 0; r < rows; ++r) {
      codes[r] = 0;
      for (int j = 0; j < width; ++j) {
        const R v = x.value()[r * width + j];
        q[r * width + j] = v > 0 ? R(1) : R(-1);
        codes[r] |= int(v > 0) << j;
        squares += double((v - q[r * width + j]) * (v - q[r * width + j]));
      }
    }
    const auto weight = [&](const Schedule& schedule) { return step.scalar(at_this_step(step, schedule)); };
    const double error = x.size() > 0 ? squares / double(x.size()) : 0.0;
    auto [values, loss] = detail::pass_through(step, x, q, options.gradient, weight(options.commitment), error);
    const EntropyWeights<R> weights{weight(options.spread), weight(options.focus), weight(options.temperature)};
    if (*weights.spread.value != 0 || *weights.focus.value != 0) loss = add(step, loss, assignment_entropy(step, x, all_codes(step), code_count(), weights));
    return Quantized<Var<R, A>, Var<R, Shape{1}>>{values, codes, rows, loss, detail::known(step, error)};
  }

  template <Shape A, class S>
  auto lookup(S& step, const RowSpace* space, Shape shape, const std::int32_t* codes) const {
    auto y = step.template variable<A>(space, shape, false);
    detail::check_codes(vector_count(y), codes, code_count());
    for (long r = 0; r < vector_count(y); ++r) write(codes[r], y.value() + r * width);
    return y;
  }

 private:
  template <class R>
  void write(std::int32_t code, R* vector) const {
    for (int j = 0; j < width; ++j) vector[j] = code >> j & 1 ? R(1) : R(-1);
  }
  template <class S>
  auto all_codes(S& step) const {
    using R = typename S::Real;
    R* table = step.arena.template allocate<R>(long(code_count()) * width);
    for (int k = 0; k < code_count(); ++k) write(k, table + long(k) * width);
    return table;
  }
};

}  // namespace vaelib::inline VAELIB_ABI
