#include "quality.hpp"

#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <vaelib/metrics/set_generation.hpp>

namespace setvae {

using namespace vaelib;
using metrics::SetDistance;
using Json = nlohmann::ordered_json;

namespace {

constexpr long sets_transported = 32, points_transported = 128;  // the earth mover takes long: so many sets, and points of each

/// At most `points` points of each of the first sets that have any, in even steps; kept in `numbers`.
metrics::SetsOfPoints part_of(const Taken& x, long sets, long points, std::vector<std::vector<float>>& numbers) {
  const auto width = std::size_t(x.width);
  for (long s = 0; s < x.count() && std::cmp_less(numbers.size(), sets); ++s) {
    const auto set = x.set(s);
    const std::size_t all = set.size() / width, kept = std::min(all, std::size_t(points));
    if (all == 0) continue;
    numbers.emplace_back();
    for (std::size_t k = 0; k < kept; ++k) numbers.back().insert(numbers.back().end(), set.begin() + long(k * all / kept * width), set.begin() + long((k * all / kept + 1) * width));
  }
  return {{numbers.begin(), numbers.end()}, x.width};
}

Json row_of(const char* name, const Taken& made, const Taken& real, int threads) {
  std::vector<std::vector<float>> kept[4];
  const auto all = part_of(made, made.count(), 1 << 20, kept[0]), all_real = part_of(real, real.count(), 1 << 20, kept[1]);
  const auto few = part_of(made, sets_transported, points_transported, kept[2]), few_real = part_of(real, sets_transported, points_transported, kept[3]);
  float reach = 0;
  for (const float v : real.points) reach = std::max(reach, std::abs(v));
  const auto chamfer = metrics::generation_quality(all, all_real, {.distance = SetDistance::chamfer}, threads);
  const auto moved = metrics::generation_quality(few, few_real, {.distance = SetDistance::earth_mover, .epsilon = 0.01 * double(reach) * double(reach)}, threads);
  const double divergence = made.width <= 3 ? metrics::grid_divergence(all, all_real, reach > 0 ? double(reach) : 1) : NAN;
  std::printf("%-14s", name);
  Json row;
  for (const auto& [distance, q] : {std::pair{"chamfer", chamfer}, {"earth_mover", moved}}) {
    row[distance] = {{"minimum_matching_distance", q.minimum_matching_distance}, {"coverage", q.coverage}, {"nearest_neighbour_accuracy", q.nearest_neighbour_accuracy}};
    std::printf("  %9.5f %8.3f %7.3f", q.minimum_matching_distance, q.coverage, q.nearest_neighbour_accuracy);
  }
  row["jensen_shannon_divergence"] = divergence;
  std::printf("  %7.4f\n", divergence);
  return row;
}

}  // namespace

Json quality_of(const Taken& made, const Taken& train, const Taken& real, int threads) {
  std::printf("%ld test sets beside  MMD chamfer coverage   1-NNA    MMD mover coverage   1-NNA      JSD\n", real.count());
  Json result{{"test_sets", real.count()}};
  result["new_sets"] = row_of("new sets", made, real, threads);
  result["training_sets"] = row_of("training sets", train, real, threads);
  return result;
}

}  // namespace setvae
