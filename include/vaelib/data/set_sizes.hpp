// How many points the sets of a data set have: counted, kept as text with a model, and drawn from for new sets.
#pragma once

#include <vaelib/core/random.hpp>

#include <algorithm>
#include <charconv>
#include <cstdint>
#include <numeric>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace vaelib::inline VAELIB_ABI {
namespace data {

class SetSizes {
 public:
  static constexpr std::uint32_t most = 1 << 16;  ///< sets that are counted

  /// Of the first sets of a data set, data::SetSource or SourceView.
  template <class T>
  [[gnu::cold]] static SetSizes of(const T& sets) {
    std::vector<std::uint32_t> rows(std::size_t(std::min<std::int64_t>(sets.size(), most)));
    std::iota(rows.begin(), rows.end(), 0u);
    std::vector<long> counts(rows.size());
    sets.count(0, rows, counts.data());
    std::sort(counts.begin(), counts.end());
    SetSizes result;
    for (std::size_t i = 0, end = 0; i < counts.size(); i = end) {
      while (end < counts.size() && counts[end] == counts[i]) ++end;
      result.parts_.push_back({counts[i], std::uint32_t(end - i)});
    }
    return result;
  }

  /// Points and how many sets have as many, by rising points.
  std::span<const std::pair<long, std::uint32_t>> parts() const { return parts_; }

  /// Sizes of new sets, each as likely as it is frequent.
  [[gnu::cold]] std::vector<long> draw(long count, std::uint64_t seed) const {
    if (parts_.empty()) fail("vaelib: sizes of sets are drawn from those of a data set, there are none");
    constexpr std::uint32_t stream = 251;  // of these random numbers
    RandomSequence numbers(RandomKey{.seed = seed, .stream = stream});
    std::uint32_t all = 0;
    for (const auto& part : parts_) all += part.second;
    std::vector<long> result;
    for (long i = 0; i < count; ++i) {
      std::uint32_t place = numbers.below(all);
      std::size_t k = 0;
      for (; place >= parts_[k].second; ++k) place -= parts_[k].second;
      result.push_back(parts_[k].first);
    }
    return result;
  }

  /// "50x12 51x9": 12 sets of 50 points, 9 of 51.
  std::string words() const {
    std::string result;
    for (const auto& [points, sets] : parts_) result += text(result.empty() ? "" : " ", points, 'x', sets);
    return result;
  }
  [[gnu::cold]] static SetSizes parse(std::string_view words) {
    SetSizes result;
    std::uint64_t all = 0;
    const char *at = words.data(), *const end = at + words.size();
    while (at != end) {
      std::pair<long, std::uint32_t> part{};
      auto read = std::from_chars(at, end, part.first);
      const bool counted = read.ec == std::errc() && read.ptr != end && *read.ptr == 'x';
      if (counted) read = std::from_chars(read.ptr + 1, end, part.second);
      all += part.second;
      if (!counted || read.ec != std::errc() || part.first < 0 || part.first >= 1L << 24 || part.second == 0 || all > most || (!result.parts_.empty() && part.first <= result.parts_.back().first) ||
          (read.ptr != end && (*read.ptr != ' ' || read.ptr + 1 == end)))
        fail("vaelib: sizes of sets: expected POINTSxSETS by rising points, of at most ", most, " sets, at byte ", at - words.data());
      result.parts_.push_back(part);
      at = read.ptr == end ? end : read.ptr + 1;
    }
    return result;
  }

 private:
  std::vector<std::pair<long, std::uint32_t>> parts_;
};

}  // namespace data
}  // namespace vaelib::inline VAELIB_ABI
