// The norms and gathers of the processor's backends, on plain pointers.
#pragma once

#include <vaelib/backend/host_sequences.hpp>

#include <cmath>
#include <cstdint>

namespace vaelib::inline VAELIB_ABI {

template <class Derived, class R>
class HostLayers : public HostSequences<Derived, R> {
 public:
  using Real = R;

  // ---- batch normalisation: layers/batch_norm.hpp

  /// Mean and variance (divided by the number of rows) of each column.
  void column_statistics(long rows, long columns, const Real* x, Real* mean, Real* variance) {
    this->sum_rows(rows, columns, x, Real(1) / Real(rows), {mean});
    const auto square = [=](auto at, auto column, long) VAELIB_LOOP {
      const auto d = at.load(x) - column.load(mean);
      return std::array{d * d};
    };
    this->template column_sums<1>(rows * columns, columns, {Target<Real>{variance}}, square, Real(1) / Real(rows));
  }

  void normalise(long rows, long columns, const Real* x, const Real* mean, const Real* variance, Real epsilon, const Real* weight,
                 const Real* bias, Real* y) {
    this->lines(rows, columns, [=](auto at, auto column, long) VAELIB_LOOP {
      const auto scale = column.load(weight) / sqrt(column.load(variance) + epsilon);
      at.store(y, (at.load(x) - column.load(mean)) * scale + column.load(bias));
    });
  }

  /// `of_batch`: mean and variance are those of x and take part in the gradient; otherwise they are given numbers.
  void normalise_gradient(long rows, long columns, bool of_batch, const Real* x, const Real* mean, const Real* variance, Real epsilon,
                          const Real* weight, const Real* upstream, Target<Real> to_x, Target<Real> to_weight, Target<Real> to_bias) {
    Real *with_x = sums.at_least(2 * columns), *plain = with_x + columns;  // sums of upstream * normalised x, and of upstream
    const auto terms = [=](auto at, auto column, long) VAELIB_LOOP {
      const auto g = at.load(upstream);
      return std::array{g * ((at.load(x) - column.load(mean)) / sqrt(column.load(variance) + epsilon)), g};
    };
    this->template column_sums<2>(rows * columns, columns, {Target<Real>{with_x}, Target<Real>{plain}}, terms);
    if (to_weight) this->copy(columns, with_x, to_weight);
    if (to_bias) this->copy(columns, plain, to_bias);
    if (!to_x) return;
    const Real share = of_batch ? Real(1) / Real(rows) : Real(0);
    this->lines(rows, columns, [=](auto at, auto column, long) VAELIB_LOOP {
      const auto rate = decltype(at.load(x))(Real(1)) / sqrt(column.load(variance) + epsilon);
      const auto centred = (at.load(x) - column.load(mean)) * rate;
      at.store(to_x.data, to_x.add,
               column.load(weight) * rate * (at.load(upstream) - column.load(plain) * share - centred * (column.load(with_x) * share)));
    });
  }

  /// moved = old + momentum * (factor * seen - old)
  void move(long count, const Real* old, const Real* seen, Real momentum, Real factor, Real* moved) {
    this->elements(count, [=](auto at) VAELIB_LOOP { at.store(moved, at.load(old) * (Real(1) - momentum) + at.load(seen) * (factor * momentum)); });
  }

  // ---- layer normalisation: layers/layer_norm.hpp; statistics: mean and 1 / sqrt(var + epsilon) of each row

  void layer_norm(long rows, long columns, const Real* x, Real epsilon, const Real* weight, const Real* bias, Real* statistics, Real* y) {
    const Real share = Real(1) / Real(columns);
    each_row(rows, columns, [=](auto tag, long r) VAELIB_LOOP {  // a row stays in the first-level cache
      using T = typename decltype(tag)::type;
      const Real* const in = x + r * columns;
      T sum(Real(0)), squares(Real(0));
      for (long j = 0; j < columns; j += lane_count<T>) {
        const auto at = lanes_at<T>(j, columns);
        sum = sum + at.only(at.load(in));
      }
      const T mean(vaelib::sum(sum) * share);
      for (long j = 0; j < columns; j += lane_count<T>) {
        const auto at = lanes_at<T>(j, columns);
        const T d = at.load(in) - mean;
        squares = squares + at.only(d * d);
      }
      const Real own_rate = Real(1) / std::sqrt(vaelib::sum(squares) * share + epsilon);
      const T rate(own_rate);
      for (long j = 0; j < columns; j += lane_count<T>) {
        const auto at = lanes_at<T>(j, columns);
        at.store(y + r * columns, (at.load(in) - mean) * rate * at.load(weight) + at.load(bias));
      }
      statistics[r] = vaelib::sum(sum) * share;
      statistics[rows + r] = own_rate;
    });
  }

  void layer_norm_gradient(long rows, long columns, const Real* x, const Real* statistics, const Real* weight, const Real* upstream,
                           Target<Real> to_x, Target<Real> to_weight, Target<Real> to_bias) {
    const Real *means = statistics, *rates = statistics + rows;
    const auto terms = [=](auto at, auto, long r) VAELIB_LOOP {
      using T = decltype(at.load(x));
      return std::array{at.load(upstream) * ((at.load(x) - T(means[r])) * T(rates[r])), at.load(upstream)};
    };
    if (to_weight || to_bias) this->template column_sums<2>(rows * columns, columns, {to_weight, to_bias}, terms);
    if (!to_x) return;
    const Real share = Real(1) / Real(columns);
    each_row(rows, columns, [=](auto tag, long r) VAELIB_LOOP {
      using T = typename decltype(tag)::type;
      const Real *const in = x + r * columns, *const up = upstream + r * columns;
      const T mean(means[r]), rate(rates[r]);
      T plain(Real(0)), with_x(Real(0));  // sums over the row of g = upstream * weight, and of g * normalised x
      for (long j = 0; j < columns; j += lane_count<T>) {
        const auto at = lanes_at<T>(j, columns);
        const T g = at.load(up) * at.load(weight);
        plain = plain + at.only(g);
        with_x = with_x + at.only(g * ((at.load(in) - mean) * rate));
      }
      const T plain_mean(vaelib::sum(plain) * share), with_x_mean(vaelib::sum(with_x) * share);
      for (long j = 0; j < columns; j += lane_count<T>) {
        const auto at = lanes_at<T>(j, columns);
        const T g = at.load(up) * at.load(weight), centred = (at.load(in) - mean) * rate;
        at.store(to_x.data + r * columns, to_x.add, (g - plain_mean - centred * with_x_mean) * rate);
      }
    });
  }

  // ---- rows by index

  void gather_rows(long rows, int columns, const Real* table, const std::int32_t* index, Real* out) {
    self().parallel((rows + 63) / 64, [&](long b) {
      for (long r = b * 64; r < std::min(rows, (b + 1) * 64); ++r) std::copy_n(table + long(index[r]) * columns, columns, out + r * columns);
    });
  }
  /// table[index[r]] (+)= x[r], in the order of the rows.
  void scatter_rows(long rows, int columns, int count, const Real* x, const std::int32_t* index, Target<Real> table) {
    if (!table.add) std::fill_n(table.data, long(count) * columns, Real(0));
    for (long r = 0; r < rows; ++r)
      for (int j = 0; j < columns; ++j) table.data[long(index[r]) * columns + j] += x[r * columns + j];
  }

 private:
  Derived& self() { return static_cast<Derived&>(*this); }
  template <class T>
  static VAELIB_INLINE Access<T, Real> lanes_at(long index, long end) {
    return {index, int(std::min<long>(lane_count<T>, end - index))};
  }
  /// body(lanes, row) for each row.
  template <class Body>
  void each_row(long rows, long columns, const Body& body) {
    const long block = std::max(1L, this->block_size / std::max(1L, columns));
    self().parallel_lanes((rows + block - 1) / block, [=](auto tag, long b) VAELIB_LOOP {
      for (long r = b * block; r < std::min(rows, (b + 1) * block); ++r) body(tag, r);
    });
  }

  Buffer<Real> sums;  // grows to the largest need and stays
};

}  // namespace vaelib::inline VAELIB_ABI
