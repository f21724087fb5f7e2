// Attention whose weights are shared out among the queries (slots): each key belongs to all slots together once.
//
//   w_ij = softmax_i(q_i . k_j / sqrt(width)),   y_i = sum_j w_ij v_j / sum_j w_ij
//
// Locatello et al. 2020, "Object-centric learning with slot attention"; as Kim et al. 2021, "SetVAE", use it. The mean
// is over the keys of a set, so that it depends on nothing else. Kept are the sums of weights; the weights are computed
// again backward. The keys of a block lie in the lanes, the weights of all slots of a set for a block are in scratch.
//
// A set and a head are one task, as in attention.hpp.
#pragma once

#include <vaelib/backend/attention.hpp>

namespace vaelib::inline VAELIB_ABI {

/// Scratch of one part, for sets of at most `slots` queries.
inline long slot_attention_room(const AttentionRows& rows, long slots) {
  return detail::attention_block * (rows.width + slots + detail::attention_line(rows.out)) +
         slots * detail::attention_line(rows.out);
}
inline long slot_attention_gradient_room(const AttentionRows& rows, long slots) {
  const int width = rows.width, out = rows.out;
  return detail::attention_block * (width + out + std::max(width, out) + 2 * slots + detail::attention_line(width)) +
         slots * (detail::attention_line(out) + 1);
}

namespace detail {

/// The weights of a block of keys: a softmax over the slots, column by column. Zeros from `count` on.
template <class T, class Real>
VAELIB_INLINE void slot_weights(long slots, long count, int width, const Real* q, long row, const Real* keys, Real* p) {
  constexpr long lanes = LaneTraits<T>::width, line = attention_block;
  const long columns = (count + lanes - 1) / lanes * lanes;
  tiles<T>(slots, columns, width, Left<Real>{q, row, 1}, Right<Real>{keys, line},
           [=](long r, long c, const T& score) VAELIB_LOOP { store<T>(p + r * line + c, score); });
  softmax_of_slots<T>(1, slots, columns, p);
  for (long i = 0; i < slots; ++i) std::fill(p + i * line + count, p + i * line + columns, Real(0));
}

}  // namespace detail

/// y, and in `sums` the sum of weights of each query and head. Scratch: slot_attention_room for each part.
template <class Backend, class Real = typename Backend::Real>
void slot_attention(Backend& backend, const AttentionRows& rows, long most_slots, const Real* q, const Real* k,
                    const Real* v, Real* y, Real* sums, Real* scratch) {
  const long room = slot_attention_room(rows, most_slots);
  backend.parallel_lanes(rows.parts(), [=](auto tag, long part) VAELIB_LOOP {
    using namespace detail;
    using T = typename decltype(tag)::type;
    constexpr long lanes = LaneTraits<T>::width, line = attention_block;
    const int width = rows.width, out = rows.out;
    for (long task = part; task < rows.tasks(); task += rows.parts()) {
      const long g = task % rows.groups, h = task / rows.groups, row = long(rows.heads) * width,
                 out_row = long(rows.heads) * out, wide = attention_line(out), first = rows.from[g],
                 slots = rows.from[g + 1] - first;
      if (slots == 0) continue;
      Real *const keys = scratch + part * room, *const p = keys + width * line, *const values = p + most_slots * line,
                  *const result = values + wide * line;
      std::fill_n(result, slots * wide, Real(0));
      for (long i = 0; i < slots; ++i) sums[(first + i) * rows.heads + h] = 0;
      for (long j = rows.to[g], last = rows.to[g + 1]; j < last; j += line) {
        const long count = std::min(line, last - j), more = std::min(line, last - j - count);
        const Real *const key = k + j * row + h * width, *const value = v + j * out_row + h * out;
        fetch_rows(more, width, key + count * row, row);
        fetch_rows(more, out, value + count * out_row, out_row);
        turn(count, width, key, row, log2_e<Real> / std::sqrt(Real(width)), keys, line);
        copy_head<T>(count, out, value, out_row, Real(1), values);
        slot_weights<T>(slots, count, width, q + first * row + h * width, row, keys, p);
        for (long i = 0; i < slots; ++i) {
          T sum(Real(0));
          for (long c = 0; c < count; c += lanes) sum = sum + load<T>(p + i * line + c);
          sums[(first + i) * rows.heads + h] += vaelib::sum(sum);
        }
        tiles<T>(slots, out, count, Left<Real>{p, line, 1}, Right<Real>{values, wide},
                 add_to_rows<T>(result, wide, out));
      }
      for (long i = 0; i < slots; ++i) {
        const Real sum = sums[(first + i) * rows.heads + h];
        for (int d = 0; d < out; ++d)
          y[(first + i) * out_row + h * out + d] = sum == 0 ? Real(0) : result[i * wide + d] / sum;
      }
    }
  });
}

/// Scratch: slot_attention_gradient_room for each part.
template <class Backend, class Real = typename Backend::Real>
void slot_attention_gradient(Backend& backend, const AttentionRows& rows, long most_slots, const Real* q, const Real* k,
                             const Real* v, const Real* y, const Real* sums, const Real* upstream, Target<Real> to_q,
                             Target<Real> to_k, Target<Real> to_v, Real* scratch) {
  const long room = slot_attention_gradient_room(rows, most_slots);
  backend.parallel_lanes(rows.parts(), [=](auto tag, long part) VAELIB_LOOP {
    using namespace detail;
    using T = typename decltype(tag)::type;
    constexpr long lanes = LaneTraits<T>::width, line = attention_block;
    const int width = rows.width, out = rows.out;
    for (long task = part; task < rows.tasks(); task += rows.parts()) {
      const long g = task % rows.groups, h = task / rows.groups, row = long(rows.heads) * width,
                 out_row = long(rows.heads) * out, wide = attention_line(out), first = rows.from[g],
                 slots = rows.from[g + 1] - first;
      const Real scale = Real(1) / std::sqrt(Real(width));
      Real *const keys = scratch + part * room, *const values = keys + width * line,
                  *const turned = values + out * line, *const p = turned + std::max(width, out) * line,
                  *const ds = p + most_slots * line, *const key_rows = ds + most_slots * line,
                  *const slopes = key_rows + attention_line(width) * line, *const means = slopes + most_slots * wide;
      clear_head(first, first + slots, width, row, Target<Real>{to_q ? to_q.data + h * width : nullptr, to_q.add});
      clear_head(rows.to[g], rows.to[g + 1], width, row,
                 Target<Real>{to_k ? to_k.data + h * width : nullptr, to_k.add});
      clear_head(rows.to[g], rows.to[g + 1], out, out_row,
                 Target<Real>{to_v ? to_v.data + h * out : nullptr, to_v.add});
      if (slots == 0) continue;
      for (long i = 0; i < slots; ++i) {  // of y with respect to a weight: dy (v - y) / sum
        const long place = (first + i) * out_row + h * out;
        const Real sum = sums[(first + i) * rows.heads + h], share = sum == 0 ? Real(0) : 1 / sum;
        means[i] = 0;
        for (int d = 0; d < out; ++d) {
          slopes[i * wide + d] = upstream[place + d] * share;
          means[i] += slopes[i * wide + d] * y[place + d];
        }
      }
      for (long j = rows.to[g], last = rows.to[g + 1]; j < last; j += line) {
        const long count = std::min(line, last - j), more = std::min(line, last - j - count),
                   columns = (count + lanes - 1) / lanes * lanes;
        const Real *const key = k + j * row + h * width, *const value = v + j * out_row + h * out;
        fetch_rows(more, width, key + count * row, row);
        fetch_rows(more, out, value + count * out_row, out_row);
        turn(count, width, key, row, scale * log2_e<Real>, keys, line);
        turn(count, out, value, out_row, Real(1), values, line);
        copy_head<T>(count, width, key, row, scale, key_rows);
        slot_weights<T>(slots, count, width, q + first * row + h * width, row, keys, p);
        tiles<T>(slots, columns, out, Left<Real>{slopes, wide, 1}, Right<Real>{values, line},
                 [=](long r, long c, const T& dp)
                     VAELIB_LOOP { store<T>(ds + r * line + c, dp - T(means[r])); });
        for (long c = 0; c < columns; c += lanes) {
          T mean(Real(0));
          for (long i = 0; i < slots; ++i) mean = mean + load<T>(p + i * line + c) * load<T>(ds + i * line + c);
          for (long i = 0; i < slots; ++i)
            store<T>(ds + i * line + c, load<T>(p + i * line + c) * (load<T>(ds + i * line + c) - mean));
        }
        const auto keep = [=](long r, long c, const T& sum) VAELIB_LOOP { store<T>(turned + r * line + c, sum); };
        if (to_v) {
          tiles<T>(out, columns, slots, Left<Real>{slopes, 1, wide}, Right<Real>{p, line}, keep);
          turn_back(count, out, turned, line, Real(1), to_v.data + j * out_row + h * out, out_row, true);
        }
        if (to_k) {
          tiles<T>(width, columns, slots, Left<Real>{q + first * row + h * width, 1, row}, Right<Real>{ds, line}, keep);
          turn_back(count, width, turned, line, scale, to_k.data + j * row + h * width, row, true);
        }
        if (to_q)
          tiles<T>(slots, width, count, Left<Real>{ds, line, 1}, Right<Real>{key_rows, attention_line(width)},
                   add_to_rows<T>(to_q.data + first * row + h * width, row, width));
      }
    }
  });
}

}  // namespace vaelib::inline VAELIB_ABI
