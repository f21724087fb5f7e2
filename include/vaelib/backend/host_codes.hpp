// The operations of quantizers on the processor's backends: sums of vectors by their codes, straight-through gradients.
#pragma once

#include <vaelib/backend/host_layers.hpp>

#include <cmath>
#include <cstdint>

namespace vaelib::inline VAELIB_ABI {

template <class Derived, class R>
class HostCodes : public HostLayers<Derived, R> {
 public:
  using Real = R;

  /// errors[r] = |x_r - q_r|^2
  void squared_errors(long rows, int columns, const Real* x, const Real* q, Real* errors) {
    this->row_sums(rows, columns, errors, [=](auto at, long) VAELIB_LOOP {
      const auto d = at.load(x) - at.load(q);
      return d * d;
    }, [](Real sum, long) { return sum; });
  }

  /// target (+)= upstream + weight (x - q), each of which may be missing: the gradient of a straight-through estimate and of
  /// weight / 2 |x - q|^2.
  void pull_gradient(long count, const Real* x, const Real* q, Real weight, const Real* upstream, Target<Real> target) {
    this->elements(count, [=](auto at) VAELIB_LOOP {
      const auto pull = (at.load(x) - at.load(q)) * weight;
      at.store(target.data, target.add, upstream ? at.load(upstream) + pull : pull);
    });
  }

  /// The rows in the order of their codes: those of code k are members[starts[k]] to members[starts[k + 1] - 1], ascending.
  void group_by_code(long rows, int codes, const std::int32_t* code, std::int32_t* starts, std::int32_t* members) {
    std::fill(starts, starts + codes + 1, 0);
    for (long r = 0; r < rows; ++r) ++starts[code[r] + 1];
    for (int k = 0; k < codes; ++k) starts[k + 1] += starts[k];
    for (long r = 0; r < rows; ++r) members[starts[code[r]]++] = std::int32_t(r);
    for (int k = codes; k > 0; --k) starts[k] = starts[k - 1];
    starts[0] = 0;
  }

  /// f(code, sum of its vectors, their number) for all codes; the sums are in the order of the rows.
  template <class F>
  void for_each_code(int codes, int columns, const Real* x, const std::int32_t* starts, const std::int32_t* members, const F& f) {
    constexpr int block = 32;
    const int blocks = (codes + block - 1) / block;
    Real* rows_of_codes = code_sums.at_least(long(blocks) * columns);
    self().parallel(blocks, [&](long b) {
      Real* sum = rows_of_codes + b * columns;
      for (int k = int(b) * block; k < std::min(codes, int(b + 1) * block); ++k) {
        std::fill_n(sum, columns, Real(0));
        for (std::int32_t m = starts[k]; m < starts[k + 1]; ++m) add_row(columns, x + long(members[m]) * columns, sum);
        f(k, static_cast<const Real*>(sum), starts[k + 1] - starts[k]);
      }
    });
  }

  /// y_r = x_r rotated to the direction of q_r and scaled to its length is q_r; the gradient of this map, with rotation and scale held
  /// constant: target (+)= s (g - 2 r (r g) + 2 x^ (q^ g)), where s = |q| / |x|, ^ is unit length and r = (x^ + q^)^; plus weight (x - q).
  /// Fifty et al. 2024, "Restructuring vector quantization with the rotation trick", section 4.2.
  void rotation_gradient(long rows, int columns, const Real* x, const Real* q, Real weight, const Real* upstream, Target<Real> target) {
    by_vectors(rows, [=](long r) {
      rotate_row(columns, x + r * columns, q + r * columns, weight, upstream + r * columns, {target.data + r * columns, target.add});
    });
  }

  /// y_r = x_r / |x_r|; lengths[r] = |x_r|, at least a tiny number.
  void unit_rows(long rows, int columns, const Real* x, Real* y, Real* lengths) {
    by_vectors(rows, [=](long r) {
      Real sum = 0;
      for (int j = 0; j < columns; ++j) sum += x[r * columns + j] * x[r * columns + j];
      lengths[r] = std::max(std::sqrt(sum), Real(1e-12));
      for (int j = 0; j < columns; ++j) y[r * columns + j] = x[r * columns + j] / lengths[r];
    });
  }
  /// target (+)= (g - y (y g)) / |x|
  void unit_rows_gradient(long rows, int columns, const Real* y, const Real* lengths, const Real* upstream, Target<Real> target) {
    by_vectors(rows, [=](long r) {
      const Real *unit = y + r * columns, *g = upstream + r * columns;
      Real along = 0;
      for (int j = 0; j < columns; ++j) along += unit[j] * g[j];
      for (int j = 0; j < columns; ++j) {
        Real& place = target.data[r * columns + j];
        const Real gradient = (g[j] - unit[j] * along) / lengths[r];
        place = target.add ? place + gradient : gradient;
      }
    });
  }

  /// Rows of scores become softmax(scale (score - half_norm)), which is that of -scale/2 |x - e|^2.
  void assign_softly(long rows, int codes, const Real* half_norms, Real scale, Real* scores) {
    self().parallel_lanes(rows, [=](auto tag, long r) VAELIB_LOOP {
      using T = typename decltype(tag)::type;
      Real* row = scores + r * codes;
      Real largest = -INFINITY;
      for (int j = 0; j < codes; ++j) {
        row[j] = scale * (row[j] - half_norms[j]);
        largest = std::max(largest, row[j]);
      }
      T sum(Real(0));
      for (int j = 0; j < codes; j += lane_count<T>) {
        const Access<T, Real> at{j, std::min(lane_count<T>, codes - j)};
        const T p = exp(at.load(row) - T(largest));
        at.store(row, p);
        sum = sum + at.only(p);
      }
      const Real rate = 1 / vaelib::sum(sum);
      for (int j = 0; j < codes; ++j) row[j] *= rate;
    });
  }

  /// gradient becomes scale p (gradient - sum p gradient), row by row: that of softmax(scale scores) = p.
  void softmax_gradient(long rows, int codes, const Real* p, Real scale, Real* gradient) {
    by_vectors(rows, [=](long r) {
      const Real* own = p + r * codes;
      Real *g = gradient + r * codes, mean = 0;
      for (int j = 0; j < codes; ++j) mean += own[j] * g[j];
      for (int j = 0; j < codes; ++j) g[j] = scale * own[j] * (g[j] - mean);
    });
  }

  /// The entropy of each row of probabilities: -sum p log p, nats.
  void row_entropies(long rows, int codes, const Real* p, Real* entropies) {
    this->row_sums(rows, codes, entropies, [=](auto at, long) VAELIB_LOOP {
      const auto v = at.load(p);
      return select(v > Real(0), -v * log(v), v);
    }, [](Real sum, long) { return sum; });
  }

  /// p becomes p (g - sum p g) of its row, where g = mean_weight log_mean - own_weight log p: what the loss
  /// mean_weight sum m log m - own_weight sum p log p, m the mean of p, pulls at the scores. log_mean is one number a code.
  void entropy_gradient(long rows, int codes, const Real* log_mean, Real mean_weight, Real own_weight, Real* p) {
    self().parallel_lanes(rows, [=](auto tag, long r) VAELIB_LOOP {
      using T = typename decltype(tag)::type;
      Real* row = p + r * codes;
      const auto pull = [&](auto at) { 
        const T v = at.load(row);
        return at.load(log_mean) * T(mean_weight) - select(v > Real(0), log(v), T(Real(0))) * T(own_weight);
      };
      T sum(Real(0));
      for (int j = 0; j < codes; j += lane_count<T>) {
        const Access<T, Real> at{j, std::min(lane_count<T>, codes - j)};
        sum = sum + at.only(at.load(row) * pull(at));
      }
      const T mean(vaelib::sum(sum));
      for (int j = 0; j < codes; j += lane_count<T>) {
        const Access<T, Real> at{j, std::min(lane_count<T>, codes - j)};
        at.store(row, at.load(row) * (pull(at) - mean));
      }
    });
  }

 private:
  Derived& self() { return static_cast<Derived&>(*this); }

  template <class F>
  void by_vectors(long rows, const F& f) {
    self().parallel((rows + 63) / 64, [&](long b) {
      for (long r = b * 64; r < std::min(rows, (b + 1) * 64); ++r) f(r);
    });
  }

  static void add_row(int columns, const Real* x, Real* sum) {
    constexpr int width = BaseAccess<Real>::width;
    int j = 0;
    for (; j + width <= columns; j += width) {
      const BaseAccess<Real> at{j, width};
      at.store(sum, at.load(sum) + at.load(x));
    }
    for (; j < columns; ++j) sum[j] += x[j];
  }

  static void rotate_row(int columns, const Real* x, const Real* q, Real weight, const Real* g, Target<Real> target) {
    Real xx = 0, qq = 0, xq = 0, xg = 0, qg = 0;
    for (int j = 0; j < columns; ++j) {
      xx += x[j] * x[j];
      qq += q[j] * q[j];
      xq += x[j] * q[j];
      xg += x[j] * g[j];
      qg += q[j] * g[j];
    }
    const Real tiny = std::is_same_v<Real, float> ? Real(1e-12) : Real(1e-24);
    const Real x_rate = 1 / std::sqrt(std::max(xx, tiny)), q_rate = 1 / std::sqrt(std::max(qq, tiny)), scale = x_rate / q_rate;
    const Real both = 2 + 2 * xq * x_rate * q_rate;  // |x^ + q^|^2; 0 where they are opposite
    const Real along = both > tiny ? 2 * (xg * x_rate + qg * q_rate) / both : Real(0);
    const Real ahead = 2 * qg * q_rate;
    for (int j = 0; j < columns; ++j) {
      const Real unit = x[j] * x_rate;
      const Real gradient = scale * (g[j] - along * (unit + q[j] * q_rate) + ahead * unit) + weight * (x[j] - q[j]);
      target.data[j] = target.add ? target.data[j] + gradient : gradient;
    }
  }

  Buffer<Real> code_sums;  // grows to the largest need and stays
};

}  // namespace vaelib::inline VAELIB_ABI
