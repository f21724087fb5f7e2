// The best assignment: exact, in O(rows^2 columns), for small sets and to judge what is faster.
//
// Shortest augmenting paths with dual prices; Jonker & Volgenant 1987, "A shortest augmenting path algorithm for dense
// and sparse linear assignment problems".
#pragma once

#include <vaelib/core/error.hpp>

#include <cmath>
#include <limits>
#include <span>
#include <vector>

namespace vaelib::inline VAELIB_ABI {

/// For each row its own column such that the sum of costs (rows x columns, rows <= columns, finite) is the smallest.
inline std::vector<int> assign(int rows, int columns, std::span<const double> costs) {
  if (rows < 0 || columns < rows || costs.size() != std::size_t(rows) * std::size_t(columns))
    fail("vaelib: assign ", rows, " rows to ", columns, " columns by ", costs.size(),
         " costs, expected rows x columns, no more rows than columns");
  for (const double c : costs)
    if (!std::isfinite(c)) fail("vaelib: assign found a cost of ", c, ", expected finite ones");
  // row 0 and column 0 stand for none; column 0 holds the row that looks for a column
  std::vector<double> row_price(rows + 1), column_price(columns + 1), shortest(columns + 1);
  std::vector<int> row_of(columns + 1), before(columns + 1);
  std::vector<bool> reached(columns + 1);
  for (int row = 1; row <= rows; ++row) {
    row_of[0] = row;
    int column = 0;
    shortest.assign(columns + 1, std::numeric_limits<double>::infinity());
    reached.assign(columns + 1, false);
    while (row_of[column] != 0) {  // until a free column is reached
      reached[column] = true;
      const int from = row_of[column];
      int nearest = 0;
      double step = std::numeric_limits<double>::infinity();
      for (int j = 1; j <= columns; ++j) {
        if (reached[j]) continue;
        const double reduced = costs[std::size_t(from - 1) * columns + (j - 1)] - row_price[from] - column_price[j];
        if (reduced < shortest[j]) shortest[j] = reduced, before[j] = column;
        if (shortest[j] < step) step = shortest[j], nearest = j;
      }
      for (int j = 0; j <= columns; ++j) {
        if (reached[j]) {
          row_price[row_of[j]] += step;
          column_price[j] -= step;
        } else {
          shortest[j] -= step;
        }
      }
      column = nearest;
    }
    for (; column != 0; column = before[column]) row_of[column] = row_of[before[column]];
  }
  std::vector<int> result(rows);
  for (int j = 1; j <= columns; ++j)
    if (row_of[j] != 0) result[row_of[j] - 1] = j - 1;
  return result;
}

/// The mean squared distance of the best one-to-one assignment of two sets of `count` points.
inline double exact_earth_mover(int count, int dimension, const float* x, const float* y) {
  std::vector<double> costs(std::size_t(count) * count);
  for (int i = 0; i < count; ++i)
    for (int j = 0; j < count; ++j)
      for (int d = 0; d < dimension; ++d) {
        const double difference = double(x[i * dimension + d]) - double(y[j * dimension + d]);
        costs[std::size_t(i) * count + j] += difference * difference;
      }
  const std::vector<int> columns = assign(count, count, costs);
  double sum = 0;
  for (int i = 0; i < count; ++i) sum += costs[std::size_t(i) * count + columns[i]];
  return count > 0 ? sum / count : 0;
}

}  // namespace vaelib::inline VAELIB_ABI
