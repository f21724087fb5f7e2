// What follows the attention of a post-norm block, in one pass over the rows, on plain pointers:
//
//   h = norm0(x + a),   u = h W1 + b1,   s = h + f(u) W2 + b2,   y = norm1(s)
//
// where a norm is a layer normalisation with weight and bias. Blocks of rows go through all of it while they lie in the
// cache: layer by layer, memory would see ten arrays. Kept for backward are u, s and the statistics of both norms; h is
// computed again from x + a.
//
// Sums over rows are added block by block and part by part: the number of threads changes no bit.
#pragma once

#include <vaelib/backend/tiles.hpp>
#include <vaelib/core/dual.hpp>
#include <vaelib/core/operand.hpp>

#include <array>
#include <cmath>

namespace vaelib::inline VAELIB_ABI {

/// The parameters, or where their gradients go: T is a pointer or a Target. W1: width x hidden, W2: hidden x width.
template <class T>
struct MlpParameters {
  T norm0_weight{}, norm0_bias{}, weight1{}, bias1{}, weight2{}, bias2{}, norm1_weight{}, norm1_bias{};
};

struct ResidualMlp {
  long rows;
  int width, hidden;
  float epsilon0, epsilon1;

  static constexpr long block = 64;  // rows
  static constexpr int widest = 128;
  /// Whether weights of these sizes stay in the cache, and rows are whole vectors.
  static constexpr bool fits(long width, long hidden) {
    return width % 16 == 0 && hidden % 16 == 0 && width <= widest && hidden <= widest;
  }

  long blocks() const { return (rows + block - 1) / block; }
  long parts() const { return std::min(blocks(), 32L); }
  long room() const { return block * (width + hidden); }  ///< scratch of a part
  long gradient_room() const { return block * (3L * width + 2L * hidden); }
  long weights() const { return long(width) * hidden; }
  long sums() const { return 2 * weights() + hidden + 5L * width; }  ///< numbers of all parameters
};

namespace detail {

/// Mean and 1 / sqrt(var + epsilon) of a row of whole vectors.
template <class T, class Real>
struct RowStatistics {
  Real mean, rate;

  VAELIB_INLINE RowStatistics(const Real* row, int width, Real epsilon) {
    constexpr int lanes = LaneTraits<T>::width;
    T sum(Real(0)), squares(Real(0));
    for (int j = 0; j < width; j += lanes) sum = sum + load<T>(row + j);
    mean = vaelib::sum(sum) / Real(width);
    for (int j = 0; j < width; j += lanes) {
      const T d = load<T>(row + j) - T(mean);
      squares = squares + d * d;
    }
    rate = Real(1) / std::sqrt(vaelib::sum(squares) / Real(width) + epsilon);
  }
};

/// `slope` becomes that of the row before the norm; sums of the weight and the bias grow. x: the normalised row.
template <class T, class Real>
VAELIB_INLINE void norm_gradient(int width, const Real* x, Real rate, const Real* weight, Real* slope, Real* for_weight,
                                 Real* for_bias) {
  constexpr int lanes = LaneTraits<T>::width;
  T plain(Real(0)), with_x(Real(0));
  for (int j = 0; j < width; j += lanes) {
    const T up = load<T>(slope + j), at = load<T>(x + j), g = up * load<T>(weight + j);
    store<T>(for_weight + j, load<T>(for_weight + j) + up * at);
    store<T>(for_bias + j, load<T>(for_bias + j) + up);
    plain = plain + g;
    with_x = with_x + g * at;
  }
  const T plain_mean(vaelib::sum(plain) / Real(width)), with_x_mean(vaelib::sum(with_x) / Real(width));
  for (int j = 0; j < width; j += lanes)
    store<T>(slope + j,
             (load<T>(slope + j) * load<T>(weight + j) - plain_mean - load<T>(x + j) * with_x_mean) * T(rate));
}

}  // namespace detail

/// See the head of this file. statistics: 4 numbers a row.
template <class Backend, class F, class Real = typename Backend::Real>
void residual_mlp(Backend& backend, const ResidualMlp& m, F f, const Real* x, const Real* a,
                  const MlpParameters<const Real*>& p, Real* u, Real* s, Real* y, Real* statistics, Real* scratch) {
  backend.parallel_lanes(m.parts(), [=](auto tag, long part) VAELIB_LOOP {
    using namespace detail;
    using T = typename decltype(tag)::type;
    constexpr int lanes = LaneTraits<T>::width;
    const int width = m.width, hidden = m.hidden;
    Real *const h = scratch + part * m.room(), *const g = h + m.block * width;
    for (long first = part * m.block; first < m.rows; first += m.parts() * m.block) {
      const long count = std::min(m.block, m.rows - first);
      Real *const us = u + first * hidden, *const ss = s + first * width, *const known = statistics + first * 4;
      for (long r = 0; r < count; ++r) {
        Real* const row = h + r * width;
        for (int j = 0; j < width; j += lanes)
          store<T>(row + j, load<T>(x + (first + r) * width + j) + load<T>(a + (first + r) * width + j));
        const RowStatistics<T, Real> of(row, width, Real(m.epsilon0));
        for (int j = 0; j < width; j += lanes)
          store<T>(row + j, (load<T>(row + j) - T(of.mean)) * T(of.rate) * load<T>(p.norm0_weight + j) +
                                load<T>(p.norm0_bias + j));
        known[4 * r] = of.mean, known[4 * r + 1] = of.rate;
      }
      tiles<T>(count, hidden, width, Left<Real>{h, width, 1}, Right<Real>{p.weight1, hidden},
               [=](long r, long j, const T& sum)
                   VAELIB_LOOP { store<T>(us + r * hidden + j, sum + load<T>(p.bias1 + j)); });
      for (long i = 0; i < count * hidden; i += lanes) store<T>(g + i, f(load<T>(us + i)));
      tiles<T>(count, width, hidden, Left<Real>{g, hidden, 1}, Right<Real>{p.weight2, width},
               [=](long r, long j, const T& sum) VAELIB_LOOP {
                 store<T>(ss + r * width + j, sum + load<T>(p.bias2 + j) + load<T>(h + r * width + j));
               });
      for (long r = 0; r < count; ++r) {
        const RowStatistics<T, Real> of(ss + r * width, width, Real(m.epsilon1));
        for (int j = 0; j < width; j += lanes)
          store<T>(y + (first + r) * width + j,
                   (load<T>(ss + r * width + j) - T(of.mean)) * T(of.rate) * load<T>(p.norm1_weight + j) +
                       load<T>(p.norm1_bias + j));
        known[4 * r + 2] = of.mean, known[4 * r + 3] = of.rate;
      }
    }
  });
}

/// Gradients; u, s and the statistics as residual_mlp left them. `turned`: W1 and W2, each transposed; `sums`: a row of
/// m.sums() numbers for each part, which are those of the parameters in the order of MlpParameters. to_x and to_a get
/// the same.
template <class Backend, class F, class Real = typename Backend::Real>
void residual_mlp_gradient(Backend& backend, const ResidualMlp& m, F f, const Real* x, const Real* a,
                           const MlpParameters<const Real*>& p, const Real* turned, const Real* u, const Real* s,
                           const Real* statistics, const Real* upstream, Target<Real> to_x, Target<Real> to_a,
                           Real* sums, Real* scratch) {
  backend.parallel_lanes(m.parts(), [=](auto tag, long part) VAELIB_LOOP {
    using namespace detail;
    using T = typename decltype(tag)::type;
    constexpr int lanes = LaneTraits<T>::width;
    const int width = m.width, hidden = m.hidden;
    Real *const x0 = scratch + part * m.gradient_room(), *const h = x0 + m.block * width,
                *const slope = h + m.block * width, *const g = slope + m.block * width,
                *const du = g + m.block * hidden;
    Real* const sum0 = sums + part * m.sums();
    const MlpParameters<Real*> sum{sum0,
                                   sum0 + width,
                                   sum0 + 2 * width,
                                   sum0 + 2 * width + m.weights(),
                                   sum0 + 2 * width + m.weights() + hidden,
                                   sum0 + 2 * width + 2 * m.weights() + hidden,
                                   sum0 + 3 * width + 2 * m.weights() + hidden,
                                   sum0 + 4 * width + 2 * m.weights() + hidden};
    std::fill_n(sum0, m.sums(), Real(0));
    const auto add_to = [](Real* to, long row) VAELIB_LOOP {
      return [=](long r, long j, const T& more)
                 VAELIB_LOOP { store<T>(to + r * row + j, load<T>(to + r * row + j) + more); };
    };
    const auto add_rows = [](long rows, int columns, const Real* from, Real* to) VAELIB_LOOP {
      for (int j = 0; j < columns; j += lanes) {
        T total = load<T>(to + j);
        for (long r = 0; r < rows; ++r) total = total + load<T>(from + r * columns + j);
        store<T>(to + j, total);
      }
    };
    for (long first = part * m.block; first < m.rows; first += m.parts() * m.block) {
      const long count = std::min(m.block, m.rows - first);
      const Real *const us = u + first * hidden, *const known = statistics + first * 4;
      for (long r = 0; r < count; ++r) {
        const long at = (first + r) * width;
        Real* const normal = h + r * width;  // of s first, then h
        for (int j = 0; j < width; j += lanes) {
          store<T>(normal + j, (load<T>(s + at + j) - T(known[4 * r + 2])) * T(known[4 * r + 3]));
          store<T>(slope + r * width + j, load<T>(upstream + at + j));
        }
        norm_gradient<T>(width, normal, known[4 * r + 3], p.norm1_weight, slope + r * width, sum.norm1_weight,
                         sum.norm1_bias);
        for (int j = 0; j < width; j += lanes) {
          const T one = (load<T>(x + at + j) + load<T>(a + at + j) - T(known[4 * r])) * T(known[4 * r + 1]);
          store<T>(x0 + r * width + j, one);
          store<T>(normal + j, one * load<T>(p.norm0_weight + j) + load<T>(p.norm0_bias + j));
        }
      }
      tiles<T>(count, hidden, width, Left<Real>{slope, width, 1}, Right<Real>{turned + m.weights(), hidden},
               [=](long r, long j, const T& up) VAELIB_LOOP { store<T>(du + r * hidden + j, up); });
      for (long i = 0; i < count * hidden; i += lanes) {
        const auto out = f(Dual<T, 1>::input(load<T>(us + i), 0));
        store<T>(g + i, out.value);
        store<T>(du + i, load<T>(du + i) * out.slope[0]);
      }
      add_rows(count, width, slope, sum.bias2);
      add_rows(count, hidden, du, sum.bias1);
      tiles<T>(hidden, width, count, Left<Real>{g, 1, hidden}, Right<Real>{slope, width}, add_to(sum.weight2, width));
      tiles<T>(width, hidden, count, Left<Real>{h, 1, width}, Right<Real>{du, hidden}, add_to(sum.weight1, hidden));
      tiles<T>(count, width, hidden, Left<Real>{du, hidden, 1}, Right<Real>{turned, width}, add_to(slope, width));
      for (long r = 0; r < count; ++r) {
        Real* const row = slope + r * width;
        norm_gradient<T>(width, x0 + r * width, known[4 * r + 1], p.norm0_weight, row, sum.norm0_weight,
                         sum.norm0_bias);
        for (const Target<Real>& to : {to_x, to_a})
          if (to)
            for (int j = 0; j < width; j += lanes) {
              Real* const place = to.data + (first + r) * width + j;
              store<T>(place, to.add ? load<T>(place) + load<T>(row + j) : load<T>(row + j));
            }
      }
    }
  });
}

}  // namespace vaelib::inline VAELIB_ABI
