// Attention of several heads over ragged rows, on plain pointers: the rows of each set of queries look at the rows of
// the same set of keys. No matrix of weights is kept.
//
//   y_i = sum_j softmax_j(q_i . k_j / sqrt(width)) v_j
//
// Forward goes once over the keys, block by block, with the largest score so far (Milakov & Gimelshein 2018; Dao et al.
// 2022), and keeps log sum_j exp(score) of each query and head, from which backward has the weights of a block again.
// The queries of a block lie side by side in the lanes of vectors, so that a softmax needs no sum across lanes.
//
// A set and a head are one task: neither other sets nor the number of threads change a bit.
#pragma once

#include <vaelib/backend/tiles.hpp>
#include <vaelib/core/operand.hpp>

#include <cmath>
#include <limits>

namespace vaelib::inline VAELIB_ABI {

/// Set g has the queries from[g] .. from[g + 1] - 1 and the keys to[g] .. to[g + 1] - 1. A head has `width` numbers of
/// each query and key and `out` of each value; the heads lie side by side.
struct AttentionRows {
  long groups;
  const long *from, *to;
  int heads, width, out;

  long tasks() const { return groups * heads; }  ///< task t is head t / groups of set t % groups
  /// Tasks are shared out among parts, each with its own scratch: part p takes tasks p, p + parts, ...
  long parts() const { return std::min(tasks(), 64L); }
};

namespace detail {

inline constexpr long attention_block = 64;  // queries, and keys, of a block

/// Scores are in units of log 2: a power of 2 is quicker than one of e.
template <class Real>
inline constexpr Real log2_e = Real(1.4426950408889634);

/// Numbers of a head with room for whole vectors.
inline long attention_line(int width) { return (width + 15) / 16 * 16; }

/// One column of queries: the scores of some more keys become weights. state: the largest score so far, the sum of
/// weights, and what weights of earlier keys are to be multiplied by.
template <class T, class Real>
VAELIB_INLINE void online_softmax(long keys, Real* scores, Real* state) {
  constexpr long line = attention_block;
  const auto raise = [](T& largest, const T& score) VAELIB_LOOP { largest = pick(score > largest, score, largest); };
  const T before = load<T>(state);
  T a = before, b = before, c = before, d = before;  // side by side, as a comparison takes longer than a load
  long j = 0;
  for (; j + 4 <= keys; j += 4) {
    raise(a, load<T>(scores + j * line));
    raise(b, load<T>(scores + (j + 1) * line));
    raise(c, load<T>(scores + (j + 2) * line));
    raise(d, load<T>(scores + (j + 3) * line));
  }
  for (; j < keys; ++j) raise(a, load<T>(scores + j * line));
  raise(a, b);
  raise(c, d);
  raise(a, c);
  const T factor = exp2_of_negative(before - a);
  T sum(Real(0));
  for (j = 0; j < keys; ++j) {
    const T weight = exp2_of_negative(load<T>(scores + j * line) - a);
    store<T>(scores + j * line, weight);
    sum = sum + weight;
  }
  store<T>(state, a);
  store<T>(state + line, load<T>(state + line) * factor + sum);
  store<T>(state + 2 * line, factor);
}

/// The softmax over the `slots` rows of scores of each head, column by column.
template <class T, class Real>
VAELIB_INLINE void softmax_of_slots(long heads, long slots, long columns, Real* p) {
  constexpr long lanes = LaneTraits<T>::width, line = attention_block;
  for (long h = 0; h < heads; ++h, p += slots * line)
    for (long c = 0; c < columns; c += lanes) {
      T largest = load<T>(p + c), sum(Real(0));
      for (long i = 1; i < slots; ++i) {
        const T score = load<T>(p + i * line + c);
        largest = pick(score > largest, score, largest);
      }
      for (long i = 0; i < slots; ++i) {
        const T weight = exp2_of_negative(load<T>(p + i * line + c) - largest);
        store<T>(p + i * line + c, weight);
        sum = sum + weight;
      }
      const T share = T(Real(1)) / sum;
      for (long i = 0; i < slots; ++i) store<T>(p + i * line + c, load<T>(p + i * line + c) * share);
    }
}

/// Asks for rows that are needed next: a head's part of a row lies far from that of the next row.
template <class Real>
VAELIB_INLINE void fetch_rows(long rows, int width, const Real* from, long row) {
#if defined(__GNUC__)
  for (long r = 0; r < rows; ++r)
    for (long d = 0; d < width; d += 64 / long(sizeof(Real))) __builtin_prefetch(from + r * row + d);
#endif
}

/// The numbers of a head, scaled, zeros behind them up to whole vectors.
template <class T, class Real>
VAELIB_INLINE void copy_head(long rows, int width, const Real* from, long row, Real scale, Real* to) {
  constexpr int lanes = LaneTraits<T>::width;
  const long line = attention_line(width);
  const T factor(scale);
  const int whole = width / lanes * lanes;
  for (long i = 0; i < rows; ++i)
    for (int d = 0; d < whole; d += lanes) store<T>(to + i * line + d, factor * load<T>(from + i * row + d));
  for (int d = whole; d < width; d += lanes)
    for (long i = 0; i < rows; ++i) store<T>(to + i * line + d, factor * load<T>(from + i * row + d, width - d));
}

/// Zeros where a gradient is to be written, so that all parts of it can be added.
template <class Real>
void clear_head(long first, long last, int width, long row, Target<Real> to) {
  if (!to || to.add) return;
  for (long r = first; r < last; ++r) std::fill_n(to.data + r * row, width, Real(0));
}

/// For tiles(): the sums become, or are added to, rows of `width` numbers.
template <class T, class Real>
VAELIB_INLINE auto put_in_rows(Real* to, long row, int width, bool add) {
  return [=](long i, long j, const T& sum) VAELIB_LOOP {
    Real* const place = to + i * row + j;
    if (j + LaneTraits<T>::width <= width) return store<T>(place, add ? load<T>(place) + sum : sum);
    Real numbers[LaneTraits<T>::width];  // no call from here: the sums of a tile would have to leave the registers
    store<T>(numbers, sum);
    for (long d = 0; d < width - j; ++d) place[d] = (add ? place[d] : Real(0)) + numbers[d];
  };
}
template <class T, class Real>
VAELIB_INLINE auto add_to_rows(Real* to, long row, int width) {
  return put_in_rows<T>(to, row, width, true);
}

}  // namespace detail

/// Scratch of one part.
inline long attention_room(const AttentionRows& rows) {
  return detail::attention_block * (rows.width + rows.out + detail::attention_block + 3);
}
inline long attention_gradient_room(const AttentionRows& rows) {
  const int width = rows.width, out = rows.out;
  return detail::attention_block * (width + out + std::max(width, out) + detail::attention_line(width) +
                                    detail::attention_line(out) + 2 * detail::attention_block + 2);
}

/// y, and in `sums` the log of the sum of exponentials of each query and head, in units of log 2. Scratch:
/// attention_room for each part.
template <class Backend, class Real = typename Backend::Real>
void attention(Backend& backend, const AttentionRows& rows, const Real* q, const Real* k, const Real* v, Real* y,
               Real* sums, Real* scratch) {
  const long room = attention_room(rows);
  backend.parallel_lanes(rows.parts(), [=](auto tag, long part) VAELIB_LOOP {
    using namespace detail;
    using T = typename decltype(tag)::type;
    constexpr long lanes = LaneTraits<T>::width, line = attention_block;
    const int width = rows.width, out = rows.out;
    for (long task = part; task < rows.tasks(); task += rows.parts()) {
      const long g = task % rows.groups, h = task / rows.groups, row = long(rows.heads) * width,
                 out_row = long(rows.heads) * out;
      const Real scale = log2_e<Real> / std::sqrt(Real(width));
      Real *const queries = scratch + part * room, *const result = queries + width * line,
                  *const p = result + out * line, *const state = p + line * line;
      for (long i = rows.from[g], end = rows.from[g + 1]; i < end; i += line) {
        const long count = std::min(line, end - i), columns = (count + lanes - 1) / lanes * lanes,
                   next = std::min(line, end - i - count);
        const Real* const from = q + i * row + h * width;
        fetch_rows(next, width, from + count * row, row);
        turn(count, width, from, row, scale, queries, line);
        std::fill_n(result, out * line, Real(0));
        std::fill_n(state, line, -std::numeric_limits<Real>::infinity());
        std::fill_n(state + line, line, Real(0));
        for (long j = rows.to[g], last = rows.to[g + 1]; j < last; j += line) {
          const long keys = std::min(line, last - j), more = std::min(line, last - j - keys);
          const Real *const key = k + j * row + h * width, *const value = v + j * out_row + h * out;
          fetch_rows(more, width, key + keys * row, row);
          fetch_rows(more, out, value + keys * out_row, out_row);
          tiles<T>(keys, columns, width, Left<Real>{key, row, 1}, Right<Real>{queries, line},
                   [=](long r, long c, const T& score) VAELIB_LOOP { store<T>(p + r * line + c, score); });
          for (long c = 0; c < columns; c += lanes) online_softmax<T>(keys, p + c, state + c);
          tiles<T>(out, columns, keys, Left<Real>{value, 1, out_row}, Right<Real>{p, line},
                   [=](long r, long c, const T& sum) VAELIB_LOOP {
                     Real* const place = result + r * line + c;
                     store<T>(place, load<T>(place) * load<T>(state + 2 * line + c) + sum);
                   });
        }
        for (long c = 0; c < columns; c += lanes) {
          const T sum = load<T>(state + line + c), share = pick(sum == T(Real(0)), T(Real(0)), T(Real(1)) / sum);
          for (int d = 0; d < out; ++d) store<T>(result + d * line + c, load<T>(result + d * line + c) * share);
          store<T>(state + c, load<T>(state + c) + vaelib::log(sum) * T(log2_e<Real>));
        }
        turn_back(count, out, result, line, Real(1), y + i * out_row + h * out, out_row, false);
        for (long c = 0; c < count; ++c) sums[(i + c) * rows.heads + h] = state[c];
      }
    }
  });
}

/// Scratch: attention_gradient_room for each part.
template <class Backend, class Real = typename Backend::Real>
void attention_gradient(Backend& backend, const AttentionRows& rows, const Real* q, const Real* k, const Real* v,
                        const Real* y, const Real* sums, const Real* upstream, Target<Real> to_q, Target<Real> to_k,
                        Target<Real> to_v, Real* scratch) {
  const long room = attention_gradient_room(rows);
  backend.parallel_lanes(rows.parts(), [=](auto tag, long part) VAELIB_LOOP {
    using namespace detail;
    using T = typename decltype(tag)::type;
    constexpr long lanes = LaneTraits<T>::width, line = attention_block;
    const int width = rows.width, out = rows.out;
    for (long task = part; task < rows.tasks(); task += rows.parts()) {
      const long g = task % rows.groups, h = task / rows.groups, row = long(rows.heads) * width,
                 out_row = long(rows.heads) * out;
      const Real scale = Real(1) / std::sqrt(Real(width));
      Real *const queries = scratch + part * room, *const slopes = queries + width * line,
                  *const turned = slopes + out * line, *const query_rows = turned + std::max(width, out) * line,
                  *const slope_rows = query_rows + attention_line(width) * line,
                  *const p = slope_rows + attention_line(out) * line, *const ds = p + line * line,
                  *const log_sums = ds + line * line, *const means = log_sums + line;
      clear_head(rows.from[g], rows.from[g + 1], width, row,
                 Target<Real>{to_q ? to_q.data + h * width : nullptr, to_q.add});
      clear_head(rows.to[g], rows.to[g + 1], width, row,
                 Target<Real>{to_k ? to_k.data + h * width : nullptr, to_k.add});
      clear_head(rows.to[g], rows.to[g + 1], out, out_row,
                 Target<Real>{to_v ? to_v.data + h * out : nullptr, to_v.add});
      for (long i = rows.from[g], end = rows.from[g + 1]; i < end; i += line) {
        const long count = std::min(line, end - i), columns = (count + lanes - 1) / lanes * lanes,
                   next = std::min(line, end - i - count);
        const Real *const from = q + i * row + h * width, *const up = upstream + i * out_row + h * out,
                          *const output = y + i * out_row + h * out;
        fetch_rows(next, width, from + count * row, row);
        fetch_rows(next, out, up + count * out_row, out_row);
        fetch_rows(next, out, output + count * out_row, out_row);
        copy_head<T>(count, width, from, row, scale, query_rows);
        copy_head<T>(count, out, up, out_row, Real(1), slope_rows);
        turn(count, width, from, row, scale * log2_e<Real>, queries, line);
        turn(count, out, up, out_row, Real(1), slopes, line);
        turn(count, out, output, out_row, Real(1), turned, line);
        for (long c = 0; c < columns;
             c += lanes) {  // the softmax's gradient is p (dp - mean), where the mean is dy . y
          T mean(Real(0));
          for (int d = 0; d < out; ++d) mean = mean + load<T>(slopes + d * line + c) * load<T>(turned + d * line + c);
          store<T>(means + c, mean);
        }
        for (long c = 0; c < columns; ++c) log_sums[c] = c < count ? sums[(i + c) * rows.heads + h] : Real(0);
        std::fill_n(turned, width * line, Real(0));
        for (long j = rows.to[g], last = rows.to[g + 1]; j < last; j += line) {
          const long keys = std::min(line, last - j), more = std::min(line, last - j - keys);
          const Real *const key = k + j * row + h * width, *const value = v + j * out_row + h * out;
          fetch_rows(more, width, key + keys * row, row);
          fetch_rows(more, out, value + keys * out_row, out_row);
          tiles<T>(keys, columns, width, Left<Real>{key, row, 1}, Right<Real>{queries, line},
                   [=](long r, long c, const T& score)
                       VAELIB_LOOP { store<T>(p + r * line + c, exp2_of_negative(score - load<T>(log_sums + c))); });
          tiles<T>(keys, columns, out, Left<Real>{value, out_row, 1}, Right<Real>{slopes, line},
                   [=](long r, long c, const T& dp) VAELIB_LOOP {
                     store<T>(ds + r * line + c, load<T>(p + r * line + c) * (dp - load<T>(means + c)));
                   });
          if (to_v)
            tiles<T>(keys, out, count, Left<Real>{p, line, 1}, Right<Real>{slope_rows, attention_line(out)},
                     add_to_rows<T>(to_v.data + j * out_row + h * out, out_row, out));
          if (to_k)
            tiles<T>(keys, width, count, Left<Real>{ds, line, 1}, Right<Real>{query_rows, attention_line(width)},
                     add_to_rows<T>(to_k.data + j * row + h * width, row, width));
          if (to_q)
            tiles<T>(width, columns, keys, Left<Real>{key, 1, row}, Right<Real>{ds, line},
                     [=](long r, long c, const T& sum)
                         VAELIB_LOOP { store<T>(turned + r * line + c, load<T>(turned + r * line + c) + sum); });
        }
        if (to_q) turn_back(count, width, turned, line, scale, to_q.data + i * row + h * width, row, true);
      }
    }
  });
}

}  // namespace vaelib::inline VAELIB_ABI
