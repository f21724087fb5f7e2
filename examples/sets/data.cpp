#include "data.hpp"

#include <cmath>
#include <filesystem>
#include <vaelib/data/fashion_mnist.hpp>
#include <vaelib/data/point_files.hpp>
#include <vaelib/data/subset.hpp>
#include <vaelib/train/batch_reader.hpp>

namespace setvae {

using namespace vaelib;

namespace {

template <class Train, class Test>
SetData hold(Train train, Test test, std::vector<std::string> names = {}) {
  const auto kept = std::make_shared<const std::pair<Train, Test>>(std::move(train), std::move(test));
  return {kept->first, kept->second, std::move(names), kept};
}

/// Moves the middle of the box around the points to 0, and scales so that the farthest lies 1 away.
void normalise(std::span<float> points, std::size_t width) {
  std::vector<double> middle(width);
  for (std::size_t d = 0; d < width; ++d) {
    double low = points[d], high = low;
    for (std::size_t k = d; k < points.size(); k += width) low = std::min(low, double(points[k])), high = std::max(high, double(points[k]));
    middle[d] = low / 2 + high / 2;
  }
  double farthest = 0;
  for (std::size_t k = 0; k < points.size(); k += width) {
    double square = 0;
    for (std::size_t d = 0; d < width; ++d) square += std::pow(double(points[k + d]) - middle[d], 2);
    farthest = std::max(farthest, square);
  }
  const double scale = farthest > 0 ? 1 / std::sqrt(farthest) : 1;
  for (std::size_t k = 0; k < points.size(); ++k) points[k] = float((double(points[k]) - middle[k % width]) * scale);
}

SetData sets_of_files(const Options& o) {
  auto read = data::point_files(o.data);
  const auto size = read.sets.size();
  const auto width = std::size_t(read.sets.shape().size());
  if (size < 4 || width > 64) fail(o.data, ": has ", size, " sets of points of ", width, " numbers, expected at least 4 of 1 to 64 numbers");
  auto rows = data::split_rows(size, std::max(o.test_share, 2.0 / double(size)), o.seed);
  if (std::cmp_greater(o.sets, rows.train.size())) fail(o.data, ": --sets ", o.sets, " are wanted, there are ", rows.train.size());
  if (o.sets > 0) rows.train.resize(std::size_t(o.sets));
  if (o.normalise != "no") {
    std::vector<float> points;
    std::vector<std::int64_t> offsets{0};
    std::vector<std::int32_t> labels(read.sets.classes() > 0 ? std::size_t(size) : 0);
    for (std::int64_t s = 0; s < size; ++s) {
      const auto set = read.sets.set(s);
      points.insert(points.end(), set.begin(), set.end());
      offsets.push_back(std::int64_t(points.size() / width));
      if (!labels.empty()) labels[std::size_t(s)] = read.sets.label(s);
      if (o.normalise == "each") normalise(std::span(points).last(set.size()), width);
    }
    if (o.normalise == "all") normalise(points, width);
    read.sets = {int(width), std::move(points), std::move(offsets), std::move(labels), read.sets.classes()};
  }
  return hold(read.sets.chosen(rows.train), read.sets.chosen(rows.test), read.class_names);
}

}  // namespace

SetData load_data(const Options& o) {
  if (o.data == "solids") {
    auto split = data::point_sets(int(o.least), int(o.most), o.seed);
    if (o.sets > 0) split.train.sets = std::uint32_t(o.sets);
    split.test.sets = std::min(split.test.sets, split.train.sets);
    return hold(split.train, split.test, split.class_names);
  }
  if (o.data == "fashion-mnist") {
    const auto images = data::fashion_mnist();
    const std::int64_t count = o.sets > 0 ? o.sets : images.train.size();
    return hold(data::bright_pixels(images.train, count), data::bright_pixels(images.test, std::min<std::int64_t>(1000, count)), images.class_names);
  }
  if (!std::filesystem::exists(o.data)) throw UsageError(text("--data ", o.data, ": is neither a file or folder nor one of solids and fashion-mnist"));
  return sets_of_files(o);
}

Taken take(const SourceView& data, std::int64_t first, std::int64_t count) {
  count = std::min(count, data.size() - first);
  std::vector<std::uint32_t> rows(static_cast<std::size_t>(count));
  std::iota(rows.begin(), rows.end(), std::uint32_t(first));
  BatchReader reader(data);
  reader.read(0, rows);
  const int width = data.shape().size();
  return {{reader.features(), reader.features() + reader.offsets()[count] * width}, {reader.offsets(), reader.offsets() + count + 1}, width};
}

}  // namespace setvae
