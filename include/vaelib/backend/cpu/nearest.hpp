// The nearest of many codes to each vector, without a matrix of distances.
//
//   index(i) = argmin_j |x_i - e_j|^2 = argmax_j (x_i e_j - |e_j|^2 / 2)       the lowest j where several are as near
//
// The scores of 6 vectors and one panel of codes are a tile of a product and never leave the registers: each lane keeps its
// best score, its index and its second best. Where the processor multiplies pairs of bfloat16 (twice as many a second as
// floats), the scores are those of rounded numbers. What rounding may have added to a score is bounded, by how much was in fact
// rounded; codes that it could have brought behind are compared by their distances in double. So the answer is that of a search
// through all distances, and how the scores were computed does not show in it.
//
// Codes are packed a part at a time, so that this takes little memory beside that of a matrix of distances.
#pragma once

#include <vaelib/backend/cpu/nearest_kernels.hpp>
#include <vaelib/backend/cpu/product.hpp>

#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

namespace vaelib::inline VAELIB_ABI {
namespace cpu {

namespace detail {

/// |x - e|^2 in double; x alone: |x|^2.
inline double squared_distance(int width, const float* x, const float* e = nullptr) {
  typedef float Floats __attribute__((vector_size(16), aligned(4), may_alias));
  typedef double Doubles __attribute__((vector_size(32)));
  Doubles sums{};
  int p = 0;
  for (; p + 4 <= width; p += 4) {
    const Floats a = *reinterpret_cast<const Floats*>(x + p), b = e ? *reinterpret_cast<const Floats*>(e + p) : Floats{};
    const Doubles d = __builtin_convertvector(a, Doubles) - __builtin_convertvector(b, Doubles);
    sums += d * d;
  }
  double sum = (sums[0] + sums[1]) + (sums[2] + sums[3]);
  for (; p < width; ++p) {
    const double d = double(x[p]) - (e ? double(e[p]) : 0.0);
    sum += d * d;
  }
  return sum;
}

/// A search: what all its tasks read, and where they write.
///
/// Scores are those of vectors and codes from which one same vector was taken, about the middle of the codes: distances stay as they
/// are, products become small, and with them what rounding can do. Whether bfloat16 is worth it is tried on some rows: where codes lie
/// so close together that it leaves many in question, floats are quicker.
class NearestCodes {
 public:
  static constexpr int rows_of_task = 36;

  NearestCodes(Pool& p, Workspace& w, long n, int k, int d, const float* vectors, const float* table, std::int32_t* out)
      : pool(p), workspace(w), rows(n), count(k), width(d), x(vectors), codes(table), index(out) {
    choose(kernels()->lanes == 16 && searches_in_bfloat16());
  }

  void run() {
    find_middle();
    for (int begin = 0; begin < count; begin += part) {
      pack_codes(begin);
      if (begin == 0 && pairs && !bfloat16_is_worth_it()) {
        choose(false);
        pack_codes(0);
      }
      pool.run(tasks(), [&](long task, int worker) { search_rows(task, workspace.worker(worker)); });
    }
  }

 private:
  static constexpr int panel = 64;  // codes that one task packs

  void choose(bool in_pairs) {
    pairs = in_pairs;
    steps = pairs ? (width + 1) / 2 : width;
    // a part of the codes: packed, it takes less than a hundredth of the distances, or fits into the second-level cache
    const long most = std::max(1L << 16, rows * count / 160) / std::max(1, steps);
    part = int(std::clamp<long>(most / panel * panel, panel, round_up(count, panel)));
    const bool parts = part < count;
    const std::size_t panels = std::size_t(part) / panel;
    packed = workspace.shared(std::size_t(part) * steps + part + 2 * panels + std::size_t(width) + (parts ? std::size_t(rows) : 0));
    half_norms = packed + long(part) * steps;
    extremes = half_norms + part;
    middle = extremes + 2 * panels;
    leads = parts ? middle + width : nullptr;
    const std::size_t search = rows_of_task * (3 * std::size_t(kernels()->lanes) + std::size_t(width) + (pairs ? std::size_t(steps) : 0));
    workspace.reserve_workers(pool.threads(), std::max(search, std::size_t(panel) * std::size_t(steps) + std::size_t(width)));
    if (!centre.empty()) std::copy(centre.begin(), centre.end(), middle);
  }
  long tasks() const { return (rows + rows_of_task - 1) / rows_of_task; }

  /// The mean of some of the codes.
  void find_middle() {
    centre.assign(std::size_t(width), 0.0f);
    const int stride = std::max(1, count / 64), used = (count + stride - 1) / stride;
    for (int j = 0; j < width; ++j) {
      double sum = 0;
      for (int k = 0; k < count; k += stride) sum += double(codes[long(k) * width + j]);
      centre[std::size_t(j)] = std::isfinite(sum) ? float(sum / used) : 0.0f;
    }
    std::copy(centre.begin(), centre.end(), middle);
  }

  void subtract_middle(const float* from, float* to) const {
    using Vector = VectorOf<4>::Unaligned;
    int j = 0;
    for (; j + 4 <= width; j += 4)
      *reinterpret_cast<Vector*>(to + j) = *reinterpret_cast<const Vector*>(from + j) - *reinterpret_cast<const Vector*>(middle + j);
    for (; j < width; ++j) to[j] = from[j] - middle[j];
  }

  /// The codes from `begin` on, their norms, and how much rounding changed them.
  void pack_codes(int begin) {
    first = begin;
    size = std::min(part, count - begin);
    const int panels = (size + panel - 1) / panel;
    pool.run(panels, [&](long task, int worker) {
      float *words = workspace.worker(worker), *moved = words + long(panel) * steps;
      const int offset = int(task) * panel, columns = std::min(panel, size - offset);
      float norm = 0, change = 0;
      std::fill_n(half_norms + offset, panel, std::numeric_limits<float>::infinity());
      for (int j = 0; j < columns; ++j) {
        float* row = pairs ? moved : words + long(j) * steps;
        subtract_middle(codes + long(first + offset + j) * width, row);
        half_norms[offset + j] = float(0.5 * squared_distance(width, row));
        norm = std::max(norm, half_norms[offset + j]);
        if (pairs) change = std::max(change, float(round_row(row, width, words + long(j) * steps).change));
      }
      // as pack.hpp has it: the last panel is only as wide as the vectors that hold its columns; in pairs all are of 64
      const int wide = kernels()->panel_columns, lanes = kernels()->lanes;
      for (int j = 0; j < columns; j += wide) {
        const int some = std::min(wide, columns - j), vectors = pairs ? panel : int(round_up(some, lanes));
        pack_panel({words + long(j) * steps, 1, steps}, steps, some, packed + long(offset + j) * steps, vectors);
      }
      extremes[2 * task] = norm;
      extremes[2 * task + 1] = std::sqrt(change);
    });
    largest = most_changed = 0;
    for (int t = 0; t < panels; ++t) {
      largest = std::max(largest, double(extremes[2 * t]));
      most_changed = std::max(most_changed, 1.001 * double(extremes[2 * t + 1]));
    }
  }

  /// Whether few codes have to be gone through one by one, on some of the rows.
  bool bfloat16_is_worth_it() const {
    int searched = 0, in_question = 0;
    for (const long task : {0L, tasks() / 2}) {
      searched += rows_of(task);
      in_question += search_rows(task, workspace.worker(0));
    }
    return in_question * 5 <= searched;  // to go through the codes of a lane takes three times what bfloat16 saves for a row
  }

  int rows_of(long task) const { return int(std::min<long>(rows_of_task, rows - task * rows_of_task)); }

  /// Gives how many lanes may have had more candidates than they kept, in all rows.
  int search_rows(long task, float* scratch) const {
    const long begin = task * rows_of_task;
    const int lanes = kernels()->lanes, n = rows_of(task);
    float *best = scratch, *second = best + rows_of_task * lanes, *moved = second + 2 * rows_of_task * lanes;
    float* words = moved + long(rows_of_task) * width;
    auto* at = reinterpret_cast<std::int32_t*>(second + rows_of_task * lanes);
    std::fill(best, best + n * lanes, -std::numeric_limits<float>::infinity());
    std::fill(second, second + n * lanes, -std::numeric_limits<float>::infinity());
    std::fill(at, at + n * lanes, 0);
    Rounding rounding[rows_of_task];
    for (int i = 0; i < n; ++i) {
      float* v = moved + long(i) * width;
      subtract_middle(x + (begin + i) * width, v);
      rounding[i] = pairs ? round_row(v, width, words + long(i) * steps) : Rounding{squared_distance(width, v)};
    }
    const SearchBlock block{pairs ? words : moved, n, steps, packed, half_norms, size, best, second, at};
    pairs ? search_bfloat16(block) : search(block);
    int in_question = 0;
    for (int i = 0; i < n; ++i) in_question += finish(begin + i, rounding[i], best + i * lanes, second + i * lanes, at + i * lanes);
    return in_question;
  }

  /// The best of the lanes of one row against what earlier parts found.
  int finish(long row, const Rounding& rounding, const float* best, const float* second, const std::int32_t* at) const {
    const float top = *std::max_element(best, best + kernels()->lanes), least = top - doubt(rounding);
    if (first > 0 && top < leads[row] - (top - least)) return 0;
    int in_question = 0;
    const int winner = settle(row, least, best, second, at, in_question);
    if (first == 0 || distance(row, first + winner) < distance(row, index[row])) index[row] = first + winner;
    if (leads) leads[row] = first == 0 ? top : std::max(top, leads[row]);
    return in_question;
  }

  /// By how much a score may lie behind another whose code is farther: twice what rounding can have done to one. That is a sum of
  /// width + 1 fused products from |e|^2 / 2 on, and differences from the middle before; and in bfloat16 the changes of x and e, by the
  /// Cauchy-Schwarz inequality.
  float doubt(const Rounding& rounding) const {
    const double norm = std::sqrt(rounding.norm), change = std::sqrt(rounding.change), code = std::sqrt(2 * largest);
    const double sums = 1.01 * (width + 7) * 0x1p-24 * (norm * code + largest) + width * 0x1p-125;
    return float(2 * (sums + change * (code + most_changed) + norm * most_changed));
  }
  double distance(long row, int code) const { return squared_distance(width, x + row * width, codes + long(code) * width); }

  /// The nearest of the codes of this part whose score is not below `least`. Where numbers are not finite, of all codes.
  int settle(long row, float least, const float* best, const float* second, const std::int32_t* at, int& in_question) const {
    const int lanes = kernels()->lanes;
    const bool all = !std::isfinite(least);
    int winner = -1, candidates = 0;
    for (int k = 0; k < lanes && !all; ++k) {
      if (best[k] >= least) winner = at[k] + k;
      candidates += best[k] >= least;
      in_question += second[k] >= least;
    }
    if (candidates == 1 && in_question == 0) return winner;
    double smallest = std::numeric_limits<double>::infinity();
    winner = 0;
    const auto compare = [&](int j) {
      const double d = distance(row, first + j);
      if (d < smallest || (d == smallest && j < winner)) smallest = d, winner = j;
    };
    for (int k = 0; k < lanes; ++k) {
      if (all || second[k] >= least) {
        for (int j = k; j < size; j += lanes) compare(j);
      } else if (best[k] >= least) {
        compare(at[k] + k);
      }
    }
    return winner;
  }

  Pool& pool;
  Workspace& workspace;
  long rows;
  int count, width;
  const float *x, *codes;
  std::int32_t* index;
  bool pairs = false;                      // whether scores are computed in bfloat16
  int steps = 0;                           // words of a row
  int part = 0, first = 0, size = 0;       // codes of a part, and of this one
  std::vector<float> centre;               // kept while packed moves
  float *packed = nullptr, *half_norms = nullptr, *extremes = nullptr, *middle = nullptr, *leads = nullptr;
  double largest = 0, most_changed = 0;    // |e|^2 / 2 and |e - e in bfloat16| of this part
};

}  // namespace detail

/// See the head of this file. x is rows x width, codes is count x width.
inline void nearest_codes(Pool& pool, Workspace& workspace, long rows, int count, int width, const float* x, const float* codes, std::int32_t* index) {
  if (rows > 0) detail::NearestCodes(pool, workspace, rows, count, width, x, codes, index).run();
}

}  // namespace cpu
}  // namespace vaelib::inline VAELIB_ABI
