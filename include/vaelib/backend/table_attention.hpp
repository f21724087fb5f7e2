// Attention between the many rows of each set (points) and a few (a table of T rows for each head), on plain pointers.
// The table carries the products with the weights of attention, so that no point is multiplied with them:
//
//   s_r = (t_r . x + c_r) / sqrt(width)     for each point x and each row r of the table; c: one number a row, or none
//
//   over_points   the table asks        p = softmax of s over the points of the set,    y_r = sum_x p_r(x) x
//   over_slots    the same, shared out  p = softmax of s over the T rows of each head,  y_r = the mean of x, weighed by p_r
//   to_points     the points ask        p = softmax of s over the T rows of each head,  y(x) = sum_r p_r(x) u_r + b
//
// Tables t, u and y lie head by head: row (h, g, i) is row i of set g and head h. The weights p are kept for backward:
// points x rows of the table, T x heads numbers a point. layers/attention.hpp says which attention this is.
//
// A set is a task: neither other sets nor the number of threads change a bit.
#pragma once

#include <vaelib/backend/attention.hpp>

namespace vaelib::inline VAELIB_ABI {

enum class TableSoftmax { over_points, over_slots, to_points };

struct TableAttention {
  TableSoftmax softmax;
  long groups;
  const long* points;  ///< set g has the points points[g] .. points[g + 1] - 1
  int heads, slots;    ///< slots: T
  int in, out;         ///< numbers of a point and of a row of t; of a row of u and of y(x)
  float width;         ///< by whose root products are divided

  long rows() const { return long(heads) * slots; }
  long table(long g, int head) const { return (head * groups + g) * slots; }  ///< the first row of a set and head
  /// The kept weights of set g begin here; those of all sets end at weights(groups).
  long weights(long g) const { return (points[g] / detail::attention_block + g) * detail::attention_block * rows(); }
  bool to_points() const { return softmax == TableSoftmax::to_points; }
  int results() const { return to_points() ? out : in; }
};

namespace detail {

/// A table of a set with room for whole vectors, and back.
template <class T, class Real>
VAELIB_INLINE void gather_table(const TableAttention& a, long g, int width, const Real* from, Real scale, Real* to) {
  for (int h = 0; h < a.heads; ++h)
    copy_head<T>(a.slots, width, from + a.table(g, h) * width, width, scale, to + h * a.slots * attention_line(width));
}
template <class T, class Real>
VAELIB_INLINE void scatter_table(const TableAttention& a, long g, int width, const Real* from, Real scale,
                                 Target<Real> to) {
  for (int h = 0; h < a.heads; ++h)
    for (long r = h * a.slots; r < (h + 1) * a.slots; ++r) {
      Real* const row = to.data + (a.table(g, h) + r - h * a.slots) * width;
      for (int d = 0; d < width; d += LaneTraits<T>::width) {
        const T sum = T(scale) * load<T>(from + r * attention_line(width) + d);
        store<T>(row + d, to.add ? load<T>(row + d, width - d) + sum : sum, width - d);
      }
    }
}

/// Blocks of the points of a set: f(first point, count, columns, the kept weights of the block).
template <class T, class Real>
VAELIB_INLINE void blocks_of_points(const TableAttention& a, long g, Real* weights, const auto& f) {
  constexpr long lanes = LaneTraits<T>::width, line = attention_block;
  Real* p = weights + a.weights(g);
  for (long i = a.points[g], end = a.points[g + 1]; i < end; i += line, p += line * a.rows()) {
    const long count = std::min(line, end - i);
    f(i, count, (count + lanes - 1) / lanes * lanes, p);
  }
}

/// Zeros in the columns that are no points.
template <class Real>
VAELIB_INLINE void clear_columns(long rows, long count, long columns, Real* p, Real value = 0) {
  if (count < columns)
    for (long r = 0; r < rows; ++r)
      std::fill(p + r * attention_block + count, p + r * attention_block + columns, value);
}

}  // namespace detail

/// Numbers of scratch of one set.
inline long table_attention_room(const TableAttention& a) {
  const long line = detail::attention_line(a.in), results = detail::attention_line(a.results());
  return a.rows() * (line + results + 18) + detail::attention_block * (a.in + std::max(line, results));
}
inline long table_attention_gradient_room(const TableAttention& a) {
  const long line = detail::attention_line(a.in), results = detail::attention_line(a.results());
  return a.rows() * (2 * line + 2 * results + detail::attention_block + 2) +
         detail::attention_block * (a.results() + line + results);
}

/// See the head of this file. `weights`: room for a.weights(a.groups) numbers. `shares`: a number a row of the table,
/// by which kept weights are to be multiplied. u, b: to_points only; c, b may be null.
template <class Backend, class Real = typename Backend::Real>
void table_attention(Backend& backend, const TableAttention& a, const Real* x, const Real* t, const Real* c,
                     const Real* u, const Real* b, Real* y, Real* weights, Real* shares, Real* scratch) {
  const long room = table_attention_room(a), parts = std::min(a.groups, 64L);
  backend.parallel_lanes(parts, [=](auto tag, long part) VAELIB_LOOP {
    using namespace detail;
    using T = typename decltype(tag)::type;
    constexpr long lanes = LaneTraits<T>::width, line = attention_block;
    const long rows = a.rows(), wide = attention_line(a.in), out_wide = attention_line(a.results());
    const Real scale = log2_e<Real> / std::sqrt(Real(a.width));
    Real *const table = scratch + part * room, *const results = table + rows * wide,
                *const bias = results + rows * out_wide, *const sums = bias + rows, *const largest = sums + rows,
                *const turned = largest + rows * 16, *const point_rows = turned + a.in * line,
                *const add = point_rows;  // the bias of results: no rows then
    if (a.to_points())
      for (long j = 0; j < out_wide; ++j) add[j] = b && j < a.out ? b[j] : Real(0);
    for (long g = part; g < a.groups; g += parts) {
      gather_table<T>(a, g, a.in, t, scale, table);
      for (long r = 0; r < rows; ++r) bias[r] = c ? c[a.table(g, int(r / a.slots)) + r % a.slots] * scale : Real(0);
      if (a.to_points()) gather_table<T>(a, g, a.out, u, Real(1), results);
      if (!a.to_points()) std::fill_n(results, rows * out_wide, Real(0));
      std::fill_n(largest, rows * lanes, -std::numeric_limits<Real>::infinity());
      blocks_of_points<T>(a, g, weights, [&](long i, long count, long columns, Real* p) VAELIB_LOOP {
        fetch_rows(std::min(line, a.points[g + 1] - i - count), a.in, x + (i + count) * a.in, a.in);
        turn(count, a.in, x + i * a.in, a.in, Real(1), turned, line);
        tiles<T>(rows, columns, a.in, Left<Real>{table, wide, 1}, Right<Real>{turned, line},
                 [=](long r, long j, const T& score) VAELIB_LOOP { store<T>(p + r * line + j, score + T(bias[r])); });
        if (a.softmax == TableSoftmax::over_points) {
          clear_columns(rows, count, columns, p, -std::numeric_limits<Real>::infinity());
          for (long r = 0; r < rows; ++r) {
            T most = load<T>(largest + r * lanes);
            for (long j = 0; j < columns; j += lanes) {
              const T score = load<T>(p + r * line + j);
              most = pick(score > most, score, most);
            }
            store<T>(largest + r * lanes, most);
          }
          return;
        }
        softmax_of_slots<T>(a.heads, a.slots, columns, p);
        clear_columns(rows, count, columns, p);
        if (!a.to_points()) return;
        const auto put = put_in_rows<T>(y + i * a.out, a.out, a.out, false);
        tiles<T>(count, out_wide, rows, Left<Real>{p, 1, line}, Right<Real>{results, out_wide},
                 [=](long r, long j, const T& sum) VAELIB_LOOP { put(r, j, sum + load<T>(add + j)); });
      });
      if (a.to_points()) continue;
      for (long r = 0; r < rows; ++r)
        sums[r] = 0, largest[r] = *std::max_element(largest + r * lanes, largest + (r + 1) * lanes);
      blocks_of_points<T>(a, g, weights, [&](long i, long count, long columns, Real* p) VAELIB_LOOP {
        if (a.softmax == TableSoftmax::over_points)
          for (long r = 0; r < rows; ++r)
            for (long j = 0; j < columns; j += lanes)
              store<T>(p + r * line + j, exp2_of_negative(load<T>(p + r * line + j) - T(largest[r])));
        clear_columns(rows, count, columns, p);
        for (long r = 0; r < rows; ++r) {
          T sum(Real(0));
          for (long j = 0; j < columns; j += lanes) sum = sum + load<T>(p + r * line + j);
          sums[r] += vaelib::sum(sum);
        }
        copy_head<T>(count, a.in, x + i * a.in, a.in, Real(1), point_rows);
        tiles<T>(rows, wide, count, Left<Real>{p, line, 1}, Right<Real>{point_rows, wide},
                 add_to_rows<T>(results, wide, int(wide)));
      });
      for (int h = 0; h < a.heads; ++h)
        for (int s = 0; s < a.slots; ++s) {
          const long r = long(h) * a.slots + s, place = a.table(g, h) + s;
          shares[place] = sums[r] == 0 ? Real(0) : 1 / sums[r];
          for (int d = 0; d < a.in; d += lanes)
            store<T>(y + place * a.in + d, load<T>(results + r * wide + d) * T(shares[place]), a.in - d);
        }
    }
  });
}

/// Gradients; `upstream` and y as table_attention wrote y, `weights` and `shares` as it left them.
template <class Backend, class Real = typename Backend::Real>
void table_attention_gradient(Backend& backend, const TableAttention& a, const Real* x, const Real* t, const Real* u,
                              const Real* y, const Real* upstream, Real* weights, const Real* shares, Target<Real> to_x,
                              Target<Real> to_t, Target<Real> to_c, Target<Real> to_u, Real* scratch) {
  const long room = table_attention_gradient_room(a), parts = std::min(a.groups, 64L);
  backend.parallel_lanes(parts, [=](auto tag, long part) VAELIB_LOOP {
    using namespace detail;
    using T = typename decltype(tag)::type;
    constexpr long lanes = LaneTraits<T>::width, line = attention_block;
    const int results = a.results();
    const long rows = a.rows(), wide = attention_line(a.in), out_wide = attention_line(results);
    const Real scale = Real(1) / std::sqrt(Real(a.width));
    // `slopes`: of the points of a result (u), or of the result of a row (dy times its share)
    Real *const table = scratch + part * room, *const slopes = table + rows * wide,
                *const for_table = slopes + rows * out_wide, *const for_u = for_table + rows * wide,
                *const ds = for_u + rows * out_wide, *const means = ds + rows * line, *const for_c = means + rows,
                *const turned = for_c + rows, *const point_rows = turned + results * line,
                *const upstream_rows = point_rows + wide * line;
    for (long g = part; g < a.groups; g += parts) {
      gather_table<T>(a, g, a.in, t, scale, table);
      gather_table<T>(a, g, results, a.to_points() ? u : upstream, Real(1), slopes);
      std::fill_n(for_table, rows * (wide + out_wide), Real(0));
      std::fill_n(for_c, rows, Real(0));
      if (!a.to_points())
        for (long r = 0; r < rows; ++r) {
          const long place = a.table(g, int(r / a.slots)) + r % a.slots;
          T mean(Real(0));
          for (int d = 0; d < results; d += lanes) {
            const T slope = load<T>(slopes + r * out_wide + d) * T(shares[place]);
            store<T>(slopes + r * out_wide + d, slope);
            mean = mean + slope * load<T>(y + place * results + d, results - d);
          }
          means[r] = vaelib::sum(mean);
        }
      blocks_of_points<T>(a, g, weights, [&](long i, long count, long columns, Real* p) VAELIB_LOOP {
        const Real* const from = a.to_points() ? upstream + i * results : x + i * a.in;
        fetch_rows(std::min(line, a.points[g + 1] - i - count), results, from + count * results, results);
        turn(count, results, from, results, Real(1), turned, line);
        copy_head<T>(count, a.in, x + i * a.in, a.in, Real(1), point_rows);
        // of the weights, then of the scores
        if (a.to_points()) {
          tiles<T>(rows, columns, results, Left<Real>{slopes, out_wide, 1}, Right<Real>{turned, line},
                   [=](long r, long j, const T& dp) VAELIB_LOOP { store<T>(ds + r * line + j, dp); });
        } else {
          tiles<T>(rows, columns, results, Left<Real>{slopes, out_wide, 1}, Right<Real>{turned, line},
                   [=](long r, long j, const T& dp) VAELIB_LOOP {
                     const T slope = dp - T(means[r]);
                     store<T>(ds + r * line + j,
                              a.softmax == TableSoftmax::over_points ? slope * load<T>(p + r * line + j) : slope);
                   });
        }
        if (a.softmax != TableSoftmax::over_points)
          for (int h = 0; h < a.heads; ++h)
            for (long j = 0; j < columns; j += lanes) {
              const long first = h * a.slots * line + j;
              T mean(Real(0));
              for (int s = 0; s < a.slots; ++s)
                mean = mean + load<T>(p + first + s * line) * load<T>(ds + first + s * line);
              for (int s = 0; s < a.slots; ++s)
                store<T>(ds + first + s * line,
                         load<T>(p + first + s * line) * (load<T>(ds + first + s * line) - mean));
            }
        if (to_t)
          tiles<T>(rows, wide, count, Left<Real>{ds, line, 1}, Right<Real>{point_rows, wide},
                   add_to_rows<T>(for_table, wide, int(wide)));
        if (to_c)
          for (long r = 0; r < rows; ++r) {
            T sum(Real(0));
            for (long j = 0; j < columns; j += lanes) sum = sum + load<T>(ds + r * line + j);
            for_c[r] += vaelib::sum(sum);
          }
        if (to_u) {
          copy_head<T>(count, results, upstream + i * results, results, Real(1), upstream_rows);
          tiles<T>(rows, out_wide, count, Left<Real>{p, line, 1}, Right<Real>{upstream_rows, out_wide},
                   add_to_rows<T>(for_u, out_wide, int(out_wide)));
        }
        if (!to_x) return;
        tiles<T>(count, wide, rows, Left<Real>{ds, 1, line}, Right<Real>{table, wide},
                 put_in_rows<T>(to_x.data + i * a.in, a.in, a.in, to_x.add));
        if (!a.to_points())
          tiles<T>(count, wide, rows, Left<Real>{p, 1, line}, Right<Real>{slopes, wide},
                   add_to_rows<T>(to_x.data + i * a.in, a.in, a.in));
      });
      if (to_t) scatter_table<T>(a, g, a.in, for_table, scale, to_t);
      if (to_u) scatter_table<T>(a, g, results, for_u, Real(1), to_u);
      if (to_c)
        for (int h = 0; h < a.heads; ++h)
          for (int s = 0; s < a.slots; ++s) {
            Real& place = to_c.data[a.table(g, h) + s];
            place = (to_c.add ? place : Real(0)) + scale * for_c[h * a.slots + s];
          }
    }
  });
}

}  // namespace vaelib::inline VAELIB_ABI
