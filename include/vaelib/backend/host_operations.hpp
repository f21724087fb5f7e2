// The elementwise operations, norms and segment operations of the processor's backends, on plain pointers.
#pragma once

#include <vaelib/backend/host.hpp>
#include <vaelib/core/dual.hpp>
#include <vaelib/core/functors.hpp>
#include <vaelib/core/operand.hpp>
#include <vaelib/core/random.hpp>

namespace vaelib::inline VAELIB_ABI {

template <class Derived, class R>
class HostOperations : public HostLoops<Derived, R> {
 public:
  using Real = R;
  using HostLoops<Derived, R>::elements;
  using HostLoops<Derived, R>::lines;
  using HostLoops<Derived, R>::row_sums;
  using HostLoops<Derived, R>::column_sums;
  using HostLoops<Derived, R>::sum_rows;

  // ---- functors of any number of operands

  /// out = f(operands...), element by element.
  template <class F, class... O>
  void map(F f, long rows, long columns, Real* out, O... operands) {
    if constexpr ((O::per_column || ...)) {
      lines(rows, columns, [=](auto at, auto column, long) VAELIB_LOOP { at.store(out, f(read(at, column, operands)...)); });
    } else {
      elements(rows * columns, [=](auto at) VAELIB_LOOP { at.store(out, f(read(at, at, operands)...)); });
    }
  }

  /// The same for operands of few numbers.
  template <class F, class... O>
  void map_few(F f, long count, Real* out, O... operands) {
    this->few_elements(count, [=](auto at) { at.store(out, f(read(at, at, operands)...)); });
  }
  template <class F, class... O>
  void map_few_gradient(F f, long count, const Real* upstream, O... operands) {
    this->few_elements(count, [=](auto at) { gradient_terms(f, at, at, at.load(upstream), std::index_sequence_for<O...>{}, operands...); });
  }

  /// out[r] = sum over the columns of f(operands...).
  template <class F, class... O>
  void map_reduce(F f, long rows, long columns, Real* out, O... operands) {
    row_sums(rows, columns, out, [=](auto at, long) VAELIB_LOOP { return f(read(at, at, operands)...); }, [](Real sum, long) { return sum; });
  }

  /// Gradients of map: target (+)= upstream * df / doperand.
  template <class F, class... O>
  void map_gradient(F f, long rows, long columns, const Real* upstream, O... operands) {
    constexpr int per_column = (0 + ... + int(O::per_column));
    if constexpr (per_column > 0) {
      std::array<Target<Real>, per_column> out;
      int next = 0;
      const auto collect = [&](const auto& operand) {
        if constexpr (std::remove_cvref_t<decltype(operand)>::per_column) out[next++] = operand.target;
      };
      (collect(operands), ...);
      this->template column_sums<per_column>(rows * columns, columns, out, [=](auto at, auto column, long) VAELIB_LOOP {
        return gradient_terms(f, at, column, at.load(upstream), std::index_sequence_for<O...>{}, operands...);
      });
    } else {
      elements(rows * columns, [=](auto at) VAELIB_LOOP {
        gradient_terms(f, at, at, at.load(upstream), std::index_sequence_for<O...>{}, operands...);
      });
    }
  }

  /// Gradients of map_reduce: the upstream gradient is one number a row.
  template <class F, class... O>
  void map_reduce_gradient(F f, long rows, long columns, const Real* upstream, O... operands) {
    lines(rows, columns, [=](auto at, auto, long r) VAELIB_LOOP {
      gradient_terms(f, at, at, decltype(at.load(upstream))(upstream[r]), std::index_sequence_for<O...>{}, operands...);
    });
  }

  /// gradient = upstream * f'(x) with the slope taken from the output y; bias (+)= its column sums. With Identity only the sums.
  template <class F>
  void output_gradient(F f, long rows, long columns, const Real* y, const Real* upstream, Real* gradient, Target<Real> bias) {
    if constexpr (std::is_same_v<F, Identity>) {
      if (bias) sum_rows(rows, columns, upstream, Real(1), bias);
    } else {
      const auto body = [=](auto at, auto, long) VAELIB_LOOP {
        const auto g = at.load(upstream) * f.slope_from_output(at.load(y));
        at.store(gradient, g);
        return std::array{at.only(g)};
      };
      // rows so short that lanes would stay empty: 16 are summed as one
      const long wide = columns < 16 ? 16 * columns : columns;
      const Target<Real> out = wide > columns ? Target<Real>{sums.at_least(wide)} : bias;
      this->template column_sums<1>(rows * columns, wide, {out}, body);
      if (wide > columns && bias) sum_rows(16, columns, out.data, Real(1), bias);
    }
  }

  // ---- sums

  /// out[j] = scale * sum over the rows of x, in double: for losses, whose rows may be many and large.
  void sum_rows_exactly(long rows, long columns, const Real* x, double scale, Real* out) {
    for (long j = 0; j < columns; ++j) {
      double sum = 0;
      for (long r = 0; r < rows; ++r) sum += x[r * columns + j];
      out[j] = Real(sum * scale);
    }
  }
  /// out[r] = sum of row r, in double; for few numbers. Its gradient is the same for all numbers of a row.
  void sum_few(long rows, long columns, const Real* x, Real* out) {
    for (long r = 0; r < rows; ++r) {
      double sum = 0;
      for (long j = 0; j < columns; ++j) sum += x[r * columns + j];
      out[r] = Real(sum);
    }
  }
  void sum_few_gradient(long rows, long columns, const Real* upstream, Target<Real> target) {
    for (long i = 0; i < rows * columns; ++i) target.data[i] = (target.add ? target.data[i] : Real(0)) + upstream[i / columns];
  }
  /// target (+)= scale * upstream, the same in each row.
  void spread_rows(long rows, long columns, const Real* upstream, Real scale, Target<Real> target) {
    by_rows(rows, columns, [&](long first, long last) {
      for (long r = first; r < last; ++r)
        for (long j = 0; j < columns; ++j) {
          Real& place = target.data[r * columns + j];
          place = target.add ? place + upstream[j] * scale : upstream[j] * scale;
        }
    });
  }
  /// target[r] (+)= upstream[r * columns] for a slice of columns: rows of `wide` numbers from `first` on, to or from rows of `narrow`.
  void copy_columns(long rows, long narrow, const Real* from, long from_stride, Real* to, long to_stride, bool add) {
    by_rows(rows, narrow, [&](long first, long last) {
      for (long r = first; r < last; ++r)
        for (long j = 0; j < narrow; ++j) {
          Real& place = to[r * to_stride + j];
          place = add ? place + from[r * from_stride + j] : from[r * from_stride + j];
        }
    });
  }
  void copy(long count, const Real* from, Target<Real> target) {
    elements(count, [=](auto at) VAELIB_LOOP { at.store(target.data, target.add, at.load(from)); });
  }

  // ---- the optimizer's pass, and what decides whether it is made

  /// w, m = optimizer(w, scale * g, m) for each of `count` weights.
  template <class Optimizer, class Rates>
  void update(const Optimizer& optimizer, const Rates& rates, Real scale, long count, Real* w, const Real* g,
              const std::array<Real*, Optimizer::moments>& moments) {
    elements(count, [=](auto at) VAELIB_LOOP {
      auto weight = at.load(w);
      std::array<decltype(weight), Optimizer::moments> m;
      for (int k = 0; k < Optimizer::moments; ++k) m[k] = at.load(moments[k]);
      optimizer.update(weight, at.load(g) * scale, m, rates);
      at.store(w, weight);
      for (int k = 0; k < Optimizer::moments; ++k) at.store(moments[k], m[k]);
    });
  }
  /// The sum of squares: not finite if any of the numbers is not.
  double squared_norm(long count, const Real* g) {
    constexpr long block = HostLoops<Derived, R>::block_size;
    const long blocks = this->blocks_of(count);
    Real* parts = sums.at_least(blocks);
    self().parallel(blocks, [&](long b) { parts[b] = sum_of_squares(std::min(block, count - b * block), g + b * block); });
    double total = 0;
    for (long b = 0; b < blocks; ++b) total += parts[b];
    return total;
  }

  // ---- random numbers; row r of the result is row first + r of the global batch

  void normal(const RandomKey& key, long first, long rows, int features, Real* out) {
    by_rows(rows, features, [&](long begin, long end) { vaelib::normal(key, first + begin, end - begin, features, out + begin * features); });
  }
  void uniform(const RandomKey& key, long first, long rows, int features, Real* out) {
    by_rows(rows, features, [&](long begin, long end) { vaelib::uniform(key, first + begin, end - begin, features, out + begin * features); });
  }

 private:
  Derived& self() { return static_cast<Derived&>(*this); }

  /// f(first, last) for blocks of whole rows.
  template <class F>
  void by_rows(long rows, long columns, const F& f) {
    const long block = std::max(1L, 4096 / std::max(1L, columns));
    self().parallel((rows + block - 1) / block, [&](long b) { f(b * block, std::min(rows, (b + 1) * block)); });
  }

  /// Four vectors at a time, as an addition takes longer than a load.
  static Real sum_of_squares(long count, const Real* g) {
    constexpr int width = BaseAccess<Real>::width;
    typename BaseAccess<Real>::Lanes sum[4];
    for (auto& s : sum) s = Real(0);
    long i = 0;
    for (; i + 4 * width <= count; i += 4 * width)
#pragma GCC unroll 4
      for (int k = 0; k < 4; ++k) {
        const auto v = BaseAccess<Real>{i + k * width, width}.load(g);
        sum[k] += v * v;
      }
    Real total = vaelib::sum((sum[0] + sum[1]) + (sum[2] + sum[3]));
    for (; i < count; ++i) total += g[i] * g[i];
    return total;
  }

  template <class At, class Column, class O>
  static VAELIB_INLINE auto read(At at, Column column, const O& operand) {
    using T = decltype(at.load(operand.value));
    if constexpr (std::is_same_v<O, Single<Real>>) {
      return T(*operand.value);
    } else if constexpr (O::per_column) {
      return column.load(operand.value);
    } else {
      return at.load(operand.value);
    }
  }
  /// The operand as a dual number whose slope `Slot` is one; as a plain number where it takes no gradient.
  template <int N, int Slot, class At, class Column, class O>
  static VAELIB_INLINE auto lift(At at, Column column, const O& operand) {
    const auto x = read(at, column, operand);
    if constexpr (O::differentiable) {
      return Dual<std::remove_const_t<decltype(x)>, N>::input(x, Slot);
    } else {
      return x;
    }
  }
  template <class... O>
  static constexpr auto slots() {  // differentiable operands are numbered in order
    std::array<int, sizeof...(O)> result{};
    int next = 0, i = 0;
    ((result[i++] = O::differentiable ? next++ : 0), ...);
    return result;
  }
  template <class... O>
  static constexpr auto columns_of() {  // so are those with one number a column
    std::array<int, sizeof...(O)> result{};
    int next = 0, i = 0;
    ((result[i++] = O::per_column ? next++ : 0), ...);
    return result;
  }

  template <class F, class At, class Column, class... O, std::size_t... I>
  static VAELIB_INLINE auto dual_value(F f, At at, Column column, std::index_sequence<I...>, const O&... operands) {
    constexpr auto slot = slots<O...>();
    constexpr int differentiable = (0 + ... + int(O::differentiable));
    return f(lift<differentiable, slot[I]>(at, column, operands)...);
  }
  /// Stores the gradient of one operand, or adds it to the terms that are summed by column.
  template <int Slot, int Place, class At, class O, class T, class D, class Terms>
  static VAELIB_INLINE void pass(At at, const O& operand, const T& upstream, const D& result, Terms& terms) {
    if constexpr (O::per_column) {
      terms[Place] = upstream * result.slope[Slot];
    } else if constexpr (O::differentiable) {
      if (operand.target.data) at.store(operand.target.data, operand.target.add, upstream * result.slope[Slot]);
    }
  }
  template <class F, class At, class Column, class T, class... O, std::size_t... I>
  static VAELIB_INLINE auto gradient_terms(F f, At at, Column column, const T& upstream, std::index_sequence<I...> all, const O&... operands) {
    constexpr auto slot = slots<O...>();
    constexpr auto place = columns_of<O...>();
    constexpr int per_column = (0 + ... + int(O::per_column));
    const auto result = dual_value(f, at, column, all, operands...);
    std::array<T, per_column == 0 ? 1 : per_column> terms{};
    (pass<slot[I], place[I]>(at, operands, upstream, result, terms), ...);
    return terms;
  }

  Buffer<Real> sums;  // grows to the largest need and stays
};

}  // namespace vaelib::inline VAELIB_ABI
