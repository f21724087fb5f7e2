// Codes drawn from a prior, one position after another, each given those before it.
//
// The number that decides a code is keyed by the seed, its row and its position, so that neither the number of threads
// nor the parts in which rows are drawn change a code. Top-k: Fan et al. 2018; top-p (nucleus): Holtzman et al. 2020.
#pragma once

#include <vaelib/priors/codes.hpp>

#include <algorithm>
#include <numeric>

namespace vaelib::inline VAELIB_ABI {

struct SamplingOptions {
  double temperature = 1;  ///< logits are divided by it; above 0
  int top_k = 0;           ///< only the k likeliest codes; 0: all
  double top_p = 1;        ///< of these, the fewest likeliest whose probabilities add up to at least p; in (0, 1]

  void check() const {
    if (!(temperature > 0 && temperature < INFINITY))
      fail("vaelib: the temperature is ", temperature,
           ", expected a number above 0 (for the likeliest code alone: top_k = 1)");
    if (top_k < 0) fail("vaelib: top_k is ", top_k, ", expected 1 or more, or 0 for all codes");
    if (!(top_p > 0 && top_p <= 1)) fail("vaelib: top_p is ", top_p, ", expected more than 0 and at most 1");
  }
};

/// The code that the uniform number u in (0, 1) picks; -1 where the logits are no numbers. `weights` and `order` are
/// room for `codes` numbers each. Of equal logits the first counts as likelier.
template <class Real>
std::int32_t choose_code(int codes, const Real* logits, double u, const SamplingOptions& options, double* weights,
                         std::int32_t* order) {
  double largest = -INFINITY, total = 0;
  for (int k = 0; k < codes; ++k) largest = std::max(largest, double(logits[k]));
  for (int k = 0; k < codes; ++k) total += weights[k] = std::exp((double(logits[k]) - largest) / options.temperature);
  if (!(total > 0 && total < INFINITY)) return -1;
  if ((options.top_k > 0 && options.top_k < codes) || options.top_p < 1) {
    const int most = options.top_k > 0 ? std::min(options.top_k, codes) : codes;
    std::iota(order, order + codes, 0);
    std::partial_sort(order, order + most, order + codes,
                      [=](int a, int b) { return weights[a] != weights[b] ? weights[a] > weights[b] : a < b; });
    double of_most = 0, kept = 0;
    for (int i = 0; i < most; ++i) of_most += weights[order[i]];
    int count = 0;
    while (count < most && (count == 0 || kept < options.top_p * of_most)) kept += weights[order[count++]];
    for (int i = count; i < codes; ++i) weights[order[i]] = 0;
    total = kept;
  }
  double left = u * total;
  std::int32_t last = 0;
  for (int k = 0; k < codes; ++k) {
    if (weights[k] == 0) continue;
    last = k;
    if ((left -= weights[k]) < 0) break;
  }
  return last;
}

/// Draws `rows` grids of codes from the prior of a Session: rows x height x width. `first` is the number of the first
/// row: rows 0 to 99 are rows 0 to 49 and, with first = 50, rows 50 to 99.
template <class Session>
std::vector<std::int32_t> sample_codes(Session& session, long rows, std::uint64_t seed,
                                       const SamplingOptions& options = {}, long first = 0) {
  options.check();
  if (rows < 0 || first < 0) fail("vaelib: ", rows, " rows of codes from row ", first, " on were asked for");
  std::vector<std::int32_t> codes;
  constexpr long at_a_time = 128;  // so that many rows do not take memory all at once
  for (long done = 0; done < rows; done += at_a_time) {
    const long count = std::min(at_a_time, rows - done);
    session.run(count, Shape{1}, nullptr, nullptr, seed, [&](auto& step, const auto& model, const auto& batch) {
      const int positions = model.grid.size(), categories = model.codes;
      codes.resize((done + count) * positions);
      std::int32_t* const drawn = codes.data() + done * positions;
      auto uniform = step.template variable<Shape{dynamic}>(batch.space, Shape{positions}, false);
      step.backend.uniform(step.next_key(), first + done, count, positions, uniform.value());
      auto* weights = step.arena.template allocate<double>(count * categories);
      auto* order = step.arena.template allocate<std::int32_t>(count * categories);
      model.sample(step, batch.space, drawn, [&](long position, const auto* logits, long stride) {
        step.backend.parallel(count, [&](long r) {
          drawn[r * positions + position] =
              choose_code(categories, logits + r * stride, double(uniform.value()[r * positions + position]), options,
                          weights + r * categories, order + r * categories);
        });
        for (long r = 0; r < count; ++r)
          if (drawn[r * positions + position] < 0)
            fail("vaelib: row ", first + done + r, " has no code at position ", position,
                 ": the logits are not finite");
      });
      return uniform;
    });
  }
  return codes;
}

}  // namespace vaelib::inline VAELIB_ABI
