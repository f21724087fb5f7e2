// Any data set, its type forgotten: what a trainer asks of data::Source. Looks at the caller's object.
#pragma once

#include <vaelib/data/dataset.hpp>

namespace vaelib::inline VAELIB_ABI {

class SourceView {
 public:
  SourceView() = default;
  /// The data must outlive the view: for a temporary this holds until the end of the full expression.
  template <data::Source T>
  SourceView(const T& source)
      : object(&source), sizes{source.size(), source.classes()}, sample(source.shape()),
        filler([](const void* o, std::uint64_t epoch, std::span<const std::uint32_t> rows, float* features, std::int32_t* labels) {
          static_cast<const T*>(o)->fill(epoch, rows, features, labels);
        }) {
    if constexpr (data::SetSource<T>)
      counter = [](const void* o, std::uint64_t epoch, std::span<const std::uint32_t> rows, long* points) { static_cast<const T*>(o)->count(epoch, rows, points); };
  }

  explicit operator bool() const { return object != nullptr; }
  std::int64_t size() const { return sizes[0]; }
  int classes() const { return int(sizes[1]); }
  Shape shape() const { return sample; }  ///< of a row; of a point where rows are sets
  bool sets() const { return counter != nullptr; }
  /// The points of each row, where rows are sets.
  void count(std::uint64_t epoch, std::span<const std::uint32_t> rows, long* points) const { counter(object, epoch, rows, points); }
  void fill(std::uint64_t epoch, std::span<const std::uint32_t> rows, float* features, std::int32_t* labels) const {
    filler(object, epoch, rows, features, labels);
  }

 private:
  const void* object = nullptr;
  std::int64_t sizes[2] = {0, 0};
  Shape sample{1};
  void (*counter)(const void*, std::uint64_t, std::span<const std::uint32_t>, long*) = nullptr;
  void (*filler)(const void*, std::uint64_t, std::span<const std::uint32_t>, float*, std::int32_t*) = nullptr;
};

}  // namespace vaelib::inline VAELIB_ABI
