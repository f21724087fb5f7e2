// How a codebook is used, and what may be done where it is not.
//
// Three views of the same codes lie side by side, for each misleads alone: one batch (depends on how many vectors it has), an epoch
// (hides that a batch uses two codes), and the moving average (remembers codes that nothing chooses any more).
#pragma once

#include <vaelib/core/error.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <vector>

namespace vaelib::inline VAELIB_ABI {
namespace metrics {

/// Of counts (they need not be whole): p_k = n_k / sum n.
struct CodebookUse {
  std::int64_t codes = 0, used = 0;  ///< used: with a count above 0, of moving averages above 1/100
  double vectors = 0;                ///< sum of the counts
  double utilisation = 0;            ///< used / codes
  double entropy = 0;                ///< -sum p log p, nats
  double normalised_entropy = 0;     ///< entropy / log(codes); 1 where there is one code
  double perplexity = 0;             ///< exp(entropy): how many codes used alike would have this entropy
};

/// A code counts as used where its count is above `least`.
template <class Number>
CodebookUse codebook_use(std::span<const Number> counts, double least = 0) {
  CodebookUse use;
  use.codes = std::int64_t(counts.size());
  if (counts.empty()) fail("metrics: a codebook has at least one code, found none");
  for (std::size_t k = 0; k < counts.size(); ++k) {
    const auto n = double(counts[k]);
    if (!(n >= 0) || !std::isfinite(n)) fail("metrics: code ", k, " is counted ", n, ", expected a number from 0 on");
    use.vectors += n;
    use.used += n > least;
  }
  for (const Number count : counts)
    if (const double p = double(count) / use.vectors; p > 0) use.entropy -= p * std::log(p);
  use.utilisation = double(use.used) / double(use.codes);
  use.normalised_entropy = use.codes > 1 ? use.entropy / std::log(double(use.codes)) : 1;
  use.perplexity = std::exp(use.entropy);
  return use;
}

/// How far each code is from the one nearest to it: sqrt(min_j |e_k - e_j|^2). 0 where codes are twins.
inline std::vector<double> nearest_code_distances(std::span<const float> codes, std::size_t width) {
  if (width == 0 || codes.size() % width != 0) fail("metrics: ", codes.size(), " numbers are no whole codes of ", width);
  const std::size_t count = codes.size() / width;
  std::vector<double> nearest(count, std::numeric_limits<double>::infinity());
  for (std::size_t a = 0; a < count; ++a)
    for (std::size_t b = a + 1; b < count; ++b) {
      float sum = 0;
      for (std::size_t j = 0; j < width; ++j) sum += (codes[a * width + j] - codes[b * width + j]) * (codes[a * width + j] - codes[b * width + j]);
      nearest[a] = std::min(nearest[a], double(sum));
      nearest[b] = std::min(nearest[b], double(sum));
    }
  for (double& d : nearest) d = std::sqrt(d);
  return nearest;
}

/// What is known of a codebook at the end of an epoch. `moving` has no codes where the quantizer keeps no moving average.
struct CodebookState {
  CodebookUse batch, epoch, moving;  ///< batch: the mean over the batches of an epoch
  double quantization_error = 0;     ///< mean (x - q)^2
  // the settings that advice is about; not a number where the quantizer has none
  double temperature = std::numeric_limits<double>::quiet_NaN(), decay = temperature, spread = temperature;
  bool replaces_dead_codes = true;
};

/// One rule that holds: which, and a sentence with what was found and what may help.
struct CodebookAdvice {
  std::string rule, sentence;
};

/// The rules that hold, the most telling first; none where the codebook is well used.
///
///   disagreement   the moving average has a quarter of the codes more in use than the batches could and do have
///   temperature    less than half of the codes are used in an epoch: draw codes at a temperature, up to 3
///   decay          the same: let codes follow the data quicker, down to 0.5
///   replacement    the same, and dead codes are left where they are
///   fewer_codes    the same, and there are more than 32
///   diversity      the normalised entropy of an epoch is below 0.7: weigh the spread of assignments
///   batch_size     a batch has fewer vectors than there are codes
///   more_codes     95 % are used with a normalised entropy of 0.9: more codes would be used too
[[gnu::cold]] inline std::vector<CodebookAdvice> codebook_advice(const CodebookState& s) {
  std::vector<CodebookAdvice> advice;
  const auto percent = [](double share) { return text(std::round(1000 * share) / 10, " %"); };
  const auto rounded = [](double x) { return std::round(100 * x) / 100; };
  const auto say = [&](const char* rule, const auto&... words) { advice.push_back({rule, text(words...)}); };
  const double reachable = s.batch.codes > 0 ? std::min(1.0, s.batch.vectors / double(s.batch.codes)) : 1;
  if (s.moving.codes > 0 && s.moving.utilisation - s.batch.utilisation / std::max(reachable, 1e-9) > 0.25)
    say("disagreement", "The moving averages have ", percent(s.moving.utilisation), " of the codes in use, a batch uses ", percent(s.batch.utilisation),
        " (", rounded(double(s.batch.used)), " of ", s.batch.codes, "): the averages remember codes that nothing chooses any more; believe the batches.");
  if (s.epoch.utilisation < 0.5) {
    const auto use = text(percent(s.epoch.utilisation), " of the codes are used in an epoch. ");
    if (!(s.temperature >= 3))
      say("temperature", use, "Codes may be drawn at a temperature", s.temperature > 0 ? text(" above ", rounded(s.temperature)) : std::string(), ", up to 3, so that others than the nearest learn too.");
    if (s.decay > 0.5) say("decay", use, "A decay below ", rounded(s.decay), ", down to 0.5, lets the codes follow the encoder.");
    if (!s.replaces_dead_codes) say("replacement", use, "Dead codes are not replaced; switching that on is the surest cure.");
    if (s.epoch.codes > 32) say("fewer_codes", use, "Half as many codes (", s.epoch.codes / 2, ") may do.");
  }
  if (s.epoch.normalised_entropy < 0.7)
    say("diversity", "The normalised entropy of an epoch is ", rounded(s.epoch.normalised_entropy), ": some codes are used far more than others. ",
        s.spread > 0 ? text("A spread weight above ", rounded(s.spread), " evens that out.") : std::string("A spread weight (a diversity loss) evens that out."));
  if (s.batch.codes > 0 && s.batch.vectors > 0 && s.batch.vectors < double(s.batch.codes))
    say("batch_size", "A batch has ", s.batch.vectors, " vectors for ", s.batch.codes, " codes: larger batches tell more of what is used.");
  if (s.epoch.utilisation >= 0.95 && s.epoch.normalised_entropy >= 0.9)
    say("more_codes", "Of ", s.epoch.codes, " codes ", percent(s.epoch.utilisation), " are used, with a normalised entropy of ", rounded(s.epoch.normalised_entropy),
        ": twice as many would be used too, where reconstructions are to become better.");
  return advice;
}

}  // namespace metrics
}  // namespace vaelib::inline VAELIB_ABI
