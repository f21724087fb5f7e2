// Data sets: rows of features, each an image height x width x channels (channels last) of floats, with optional labels.
//
//   Dataset   bytes in memory, as image files hold them; a byte b is read as b / 255
//   Rows      the caller's own floats, looked at where they are, never copied
//   Shapes    images made on the fly (data/shapes.hpp)
//
// What a trainer asks of them is the concept Source. A row depends on the source, the epoch and its index only, so that
// neither the number of threads nor an interruption changes what is learned from.
#pragma once

#include <vaelib/core/error.hpp>
#include <vaelib/core/shape.hpp>

#include <array>
#include <concepts>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace vaelib::inline VAELIB_ABI {
namespace data {

/// Rows that can be had in any order. `fill` writes rows.size() x features() floats and, unless `labels` is null, as
/// many labels. classes() is 0 where there are no labels; fill then writes none.
template <typename T>
concept Source = requires(const T& source, std::uint64_t epoch, std::span<const std::uint32_t> rows, float* features,
                          std::int32_t* labels) {
  { source.size() } -> std::convertible_to<std::int64_t>;
  { source.shape() } -> std::same_as<Shape>;
  { source.classes() } -> std::convertible_to<int>;
  source.fill(epoch, rows, features, labels);
};

/// Rows of different lengths: a row is a set (or series) of points, each of shape(). `count` writes the points of each row;
/// `fill` writes the points of all rows one after another.
template <typename T>
concept SetSource = Source<T> && requires(const T& source, std::uint64_t epoch, std::span<const std::uint32_t> rows, long* points) {
  source.count(epoch, rows, points);
};

namespace detail {

/// The number of rows that `values` values make; both numbers come from a file or a caller.
[[gnu::cold]] inline std::int64_t count_rows(std::uint64_t values, Shape shape) {
  const auto extents = text_of(shape);
  if (shape.height < 1 || shape.width < 1 || shape.channels < 1)
    fail("data set: rows of ", extents, ", expected extents of at least 1");
  const auto area = static_cast<std::uint64_t>(shape.height) * static_cast<std::uint64_t>(shape.width);
  const auto channels = static_cast<std::uint64_t>(shape.channels);
  if (area > (std::uint64_t{1} << 31) / channels) fail("data set: rows of ", extents, " are larger than 2^31 features");
  if (values % (area * channels) != 0) fail("data set: ", values, " values are no whole number of rows of ", extents);
  const auto rows = values / (area * channels);
  if (rows > UINT32_MAX) fail("data set: ", rows, " rows, at most ", UINT32_MAX, " expected");
  return static_cast<std::int64_t>(rows);
}

inline void check_labels(std::span<const std::int32_t> labels, std::int64_t rows, int classes) {
  if (labels.empty() && (classes == 0 || rows == 0)) return;
  if (std::cmp_not_equal(labels.size(), rows)) fail("data set: ", labels.size(), " labels for ", rows, " rows");
  for (std::size_t row = 0; row < labels.size(); ++row)
    if (labels[row] < 0 || labels[row] >= classes)
      fail("data set: row ", row, " has the label ", labels[row], ", expected 0 to ", classes - 1);
}

inline void check_rows(std::span<const std::uint32_t> rows, std::int64_t size) {
  for (std::uint32_t row : rows)
    if (row >= size) fail("data set: row ", row, " was asked for, there are ", size);
}

inline constexpr auto byte_values = [] {
  std::array<float, 256> values{};
  for (int i = 0; i < 256; ++i) values[static_cast<std::size_t>(i)] = static_cast<float>(i) / 255.0f;
  return values;
}();

/// Four bytes at a time: they are all read before the first float is written, which might otherwise change them.
inline void convert_bytes(const std::uint8_t* from, std::size_t count, float* to) {
  std::size_t i = 0;
  for (; i + 4 <= count; i += 4) {
    const std::uint8_t a = from[i], b = from[i + 1], c = from[i + 2], d = from[i + 3];
    to[i] = byte_values[a], to[i + 1] = byte_values[b], to[i + 2] = byte_values[c], to[i + 3] = byte_values[d];
  }
  for (; i < count; ++i) to[i] = byte_values[from[i]];
}

/// Rows come in random order, and the memory is slow to notice where the next one begins.
inline void prefetch(const std::uint8_t* row, std::size_t bytes) {
#if defined(__GNUC__) || defined(__clang__)
  for (std::size_t i = 0; i < bytes && i < 1024; i += 64) __builtin_prefetch(row + i);
#endif
}

}  // namespace detail

/// Rows of bytes in memory; as floats they lie in [0, 1].
class Dataset {
 public:
  Dataset() = default;
  [[gnu::cold]] Dataset(Shape shape, std::vector<std::uint8_t> pixels, std::vector<std::int32_t> labels = {}, int classes = 0)
      : shape_(shape),
        size_(detail::count_rows(pixels.size(), shape)),
        classes_(classes),
        pixels_(std::move(pixels)),
        labels_(std::move(labels)) {
    detail::check_labels(labels_, size_, classes_);
  }

  std::int64_t size() const { return size_; }
  Shape shape() const { return shape_; }
  int classes() const { return classes_; }
  std::span<const std::uint8_t> pixels() const { return pixels_; }
  std::span<const std::int32_t> labels() const { return labels_; }

  void fill(std::uint64_t /*epoch*/, std::span<const std::uint32_t> rows, float* features, std::int32_t* labels) const {
    const auto count = static_cast<std::size_t>(shape_.size());
    detail::check_rows(rows, size_);
    for (std::size_t i = 0; i < rows.size(); ++i) {
      if (i + 1 < rows.size()) detail::prefetch(pixels_.data() + rows[i + 1] * count, count);
      detail::convert_bytes(pixels_.data() + rows[i] * count, count, features + i * count);
      if (labels && !labels_.empty()) labels[i] = labels_[rows[i]];
    }
  }

  /// A copy of the rows from `begin` to before `end`: the way to part a validation set from a training set.
  Dataset slice(std::int64_t begin, std::int64_t end) const {
    if (begin < 0 || end < begin || end > size_)
      fail("data set: rows ", begin, " to ", end, " were asked for, there are ", size_);
    const std::int64_t bytes = shape_.size();
    std::vector<std::int32_t> labels;
    if (!labels_.empty()) labels.assign(labels_.begin() + begin, labels_.begin() + end);
    return {shape_, {pixels_.begin() + begin * bytes, pixels_.begin() + end * bytes}, std::move(labels), classes_};
  }

 private:
  Shape shape_{1};
  std::int64_t size_ = 0;
  int classes_ = 0;
  std::vector<std::uint8_t> pixels_;
  std::vector<std::int32_t> labels_;
};

/// Training and test rows of one data set.
struct Split {
  Dataset train, test;
  std::string name;
  std::vector<std::string> class_names;
};

/// A look at floats and labels that somebody else owns; they have to outlive it.
class Rows {
 public:
  Rows(std::span<const float> values, Shape shape, std::span<const std::int32_t> labels = {}, int classes = 0)
      : values_(values),
        labels_(labels),
        shape_(shape),
        size_(detail::count_rows(values.size(), shape)),
        classes_(classes) {
    detail::check_labels(labels_, size_, classes_);
  }

  std::int64_t size() const { return size_; }
  Shape shape() const { return shape_; }
  int classes() const { return classes_; }
  std::span<const float> values() const { return values_; }
  std::span<const std::int32_t> labels() const { return labels_; }

  void fill(std::uint64_t /*epoch*/, std::span<const std::uint32_t> rows, float* features, std::int32_t* labels) const {
    const auto count = static_cast<std::size_t>(shape_.size());
    detail::check_rows(rows, size_);
    for (std::size_t i = 0; i < rows.size(); ++i) {
      std::memcpy(features + i * count, values_.data() + rows[i] * count, count * sizeof(float));
      if (labels && !labels_.empty()) labels[i] = labels_[rows[i]];
    }
  }

 private:
  std::span<const float> values_;
  std::span<const std::int32_t> labels_;
  Shape shape_;
  std::int64_t size_;
  int classes_;
};

namespace detail {

/// Refuses a view whose elements do not lie side by side, last index fastest. Extents of 1 may have any stride.
void check_contiguous(const auto& container) {
  if constexpr (requires { container.strides(); }) {
    const auto& shape = container.shape();
    const auto& strides = container.strides();
    std::int64_t expected = 1;
    for (std::size_t i = shape.size(); i-- > 0;) {
      const auto extent = static_cast<std::int64_t>(shape[i]), stride = static_cast<std::int64_t>(strides[i]);
      if (extent != 1 && stride != expected && container.size() != 0)
        fail("data set: a strided view (dimension ", i, " has the stride ", stride, ", contiguous rows have ", expected,
             "): copy it into a container first");
      expected *= extent;
    }
  }
}

inline int extent(std::uint64_t value) {
  if (value < 1 || value > INT32_MAX) fail("data set: an extent of ", value, ", expected 1 to ", INT32_MAX);
  return static_cast<int>(value);
}

/// Where the elements begin: data() of an xtensor view is that of the whole container, before its offset.
auto first_element(const auto& container) {
  if constexpr (requires { container.data_offset(); })
    return container.data() + container.data_offset();
  else
    return container.data();
}

}  // namespace detail

/// A look at a container of floats that has data(), shape() and size(), such as a contiguous xt::xtensor or view:
/// rows x features, rows x height x width or rows x height x width x channels. Nothing is copied.
template <typename Container>
requires requires(const Container& container) { container.data(), container.shape(), container.size(); }
Rows view(const Container& container, std::span<const std::int32_t> labels = {}, int classes = 0) {
  static_assert(std::is_same_v<std::remove_cvref_t<decltype(*container.data())>, float>,
                "vaelib: data::view looks at floats; convert other element types first");
  const auto& shape = container.shape();
  const auto at = [&](std::size_t i) { return detail::extent(static_cast<std::uint64_t>(shape[i])); };
  Shape image(1);
  if (shape.size() == 2)
    image.channels = at(1);
  else if (shape.size() == 3 || shape.size() == 4)
    image = {at(1), at(2), shape.size() == 4 ? at(3) : 1};
  else
    fail("data set: ", shape.size(),
         " dimensions, expected 2 (rows x features), 3 or 4 (rows x height x width x channels)");
  detail::check_contiguous(container);
  return {{detail::first_element(container), static_cast<std::size_t>(container.size())}, image, labels, classes};
}

/// Refuses values that are NaN or outside [low, high], naming the first.
inline void check_range(const Rows& rows, float low, float high) {
  const auto values = rows.values();
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (values[i] >= low && values[i] <= high) continue;
    const auto features = static_cast<std::uint64_t>(rows.shape().size());
    char sentence[160];
    std::snprintf(sentence, sizeof sentence, "data set: row %llu, column %llu is %g, expected a value from %g to %g",
                  static_cast<unsigned long long>(i / features), static_cast<unsigned long long>(i % features),
                  static_cast<double>(values[i]), static_cast<double>(low), static_cast<double>(high));
    fail(sentence);
  }
}

/// The given rows as floats, for pictures and small evaluations.
template <Source T>
std::vector<float> gather(const T& source, std::span<const std::uint32_t> rows, std::uint64_t epoch = 0) {
  std::vector<float> features(rows.size() * static_cast<std::size_t>(source.shape().size()));
  source.fill(epoch, rows, features.data(), nullptr);
  return features;
}

}  // namespace data
}  // namespace vaelib::inline VAELIB_ABI
