// Entropies of soft assignments, p_ik = softmax_k(-|x_i - e_k|^2 / T), as a regulariser against collapse:
//
//   loss = spread (log K - H(mean_i p_i)) + focus mean_i H(p_i)       nats
//
// The first term pulls the vectors towards codes that are used little (all codes are used alike where it is 0), the second makes
// each choice clear. Yu et al. 2024, "Language model beats diffusion", section 3.2, has both for lookup-free codes.
// Some rows of scores at a time are held, never all.
#pragma once

#include <vaelib/quantizers/quantizer.hpp>

#include <algorithm>

namespace vaelib::inline VAELIB_ABI {

template <class R>
struct EntropyWeights {
  Scalar<R> spread, focus, temperature;
};

namespace detail {

/// The work on blocks of rows: `f(first row, rows, probabilities)`.
template <class S, class R, class F>
void for_soft_assignments(S& step, long rows, int count, int width, const R* x, const R* codes, R temperature, const F& f) {
  const long most = std::clamp<long>((1L << 18) / std::max(1, count), 16, 1024);
  const auto scratch = step.scratch(most * count + count);
  R *p = scratch.data, *half_norms = p + most * count;
  for (int k = 0; k < count; ++k) {
    R sum = 0;
    for (int j = 0; j < width; ++j) sum += codes[long(k) * width + j] * codes[long(k) * width + j];
    half_norms[k] = sum / 2;
  }
  for (long first = 0; first < rows; first += most) {
    const long n = std::min(most, rows - first);
    step.backend.product(n, count, width, MatrixView<R>{x + first * width, width, 1}, MatrixView<R>{codes, 1, width}, p, false);
    step.backend.assign_softly(n, count, half_norms, 2 / temperature, p);
    f(first, n, p);
  }
}

}  // namespace detail

/// See the head of this file; `codes` is count x width. With `learned`, a Parameter that holds the codes, they take a gradient too.
template <class S, class R, Shape A>
auto assignment_entropy(S& step, Var<R, A> x, const R* codes, int count, EntropyWeights<R> weights, const Parameter* learned = nullptr) {
  const long rows = vector_count(x);
  const int width = x.shape.channels;
  const R temperature = *weights.temperature.value, spread = *weights.spread.value, focus = *weights.focus.value;
  if (!(temperature > 0)) fail("vaelib: the temperature of soft assignments is ", temperature, ", expected more than 0");
  const Parameter table = learned ? *learned : Parameter{};
  auto loss = step.template variable<Shape{1}>(step.single(), Shape{1}, step.needs_gradient(x, table));
  R* log_mean = step.arena.template allocate<R>(count);
  double own = 0;
  {
    std::fill_n(log_mean, count, R(0));
    const auto sums = step.scratch(count + 1024);
    detail::for_soft_assignments(step, rows, count, width, x.value(), codes, temperature, [&](long first, long n, const R* p) {
      step.backend.sum_rows(n, count, p, R(1) / R(rows), {log_mean, first > 0});
      if (focus == 0) return;
      step.backend.row_entropies(n, count, p, sums.data);
      for (long r = 0; r < n; ++r) own += double(sums.data[r]);
    });
  }
  double entropy = 0;
  for (int k = 0; k < count; ++k) {
    const double p = double(log_mean[k]);
    if (p > 0) entropy -= p * std::log(p);
    log_mean[k] = R(std::log(std::max(p, 1e-30)));
  }
  *loss.value() = rows == 0 ? R(0) : R(double(spread) * (std::log(double(count)) - entropy) + double(focus) * own / double(rows));
  if (loss.needs_gradient() && rows > 0)
    step.record({loss.node}, [=](S& s) {
      const auto t = s.target(x);
      const auto to_codes = table.id >= 0 ? s.target(table) : Target<R>{};
      const R scale = *s.gradient(loss) * 2 / temperature / R(rows);
      const auto scratch = s.scratch(long(count) * width + count);
      R *of_codes = scratch.data, *totals = of_codes + long(count) * width;
      if (t && !t.add) std::fill_n(t.data, x.size(), R(0));
      detail::for_soft_assignments(s, rows, count, width, x.value(), codes, temperature, [&](long first, long n, R* p) {
        s.backend.entropy_gradient(n, count, log_mean, spread * scale, focus * scale, p);
        if (t) s.backend.product(n, width, count, MatrixView<R>{p, count, 1}, MatrixView<R>{codes, width, 1}, t.data + first * width, true);
        if (!to_codes) return;
        s.backend.product(count, width, n, MatrixView<R>{p, 1, count}, MatrixView<R>{x.value() + first * width, width, 1}, of_codes, first > 0);
        s.backend.sum_rows(n, count, p, R(1), {totals, first > 0});
      });
      if (!to_codes) return;
      for (int k = 0; k < count; ++k)
        for (int j = 0; j < width; ++j) {
          const long at = long(k) * width + j;
          const R g = of_codes[at] - totals[k] * codes[at];
          to_codes.data[at] = to_codes.add ? to_codes.data[at] + g : g;
        }
    });
  return loss;
}

/// A code for each vector, drawn from softmax_k(-|x - e_k|^2 / T) by the random numbers of its row.
template <class S, class R>
void sample_codes(S& step, const RandomKey& key, long first_row, long rows, int count, int width, const R* x, const R* codes, R temperature, std::int32_t* out) {
  const auto draws = step.scratch(rows);
  step.backend.uniform(key, first_row, rows, 1, draws.data);
  detail::for_soft_assignments(step, rows, count, width, x, codes, temperature, [&](long first, long n, const R* p) {
    step.backend.parallel(n, [&](long r) {
      R left = draws.data[first + r];
      int k = 0;
      while (k < count - 1 && !((left -= p[r * count + k]) < 0)) ++k;
      out[first + r] = k;
    });
  });
}

}  // namespace vaelib::inline VAELIB_ABI
