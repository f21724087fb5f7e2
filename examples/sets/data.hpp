// The sets that a run learns from and is tested on.
#pragma once

#include <memory>
#include <span>
#include <vaelib/train/source.hpp>

#include "options.hpp"

namespace setvae {

struct SetData {
  vaelib::SourceView train, test;
  std::vector<std::string> class_names{};
  std::shared_ptr<const void> owner{};
};

/// Throws UsageError where --data is neither a name nor a path, vaelib::Error where files cannot be used.
SetData load_data(const Options& options);

/// Sets in memory.
struct Taken {
  std::vector<float> points;
  std::vector<long> offsets;
  int width;
  long count() const { return long(offsets.size()) - 1; }
  std::span<const float> set(long s) const { return std::span(points).subspan(std::size_t(offsets[std::size_t(s)] * width), std::size_t((offsets[std::size_t(s) + 1] - offsets[std::size_t(s)]) * width)); }
};
Taken take(const vaelib::SourceView& data, std::int64_t first, std::int64_t count);

}  // namespace setvae
