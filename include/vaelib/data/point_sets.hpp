// Sets of points in space with known content, made on the fly: the surfaces of spheres, tori, boxes and cones, and pairs of
// them, of any size, direction and proportion, by 50 to 2048 points that lie evenly on them. All lie within the unit ball.
//
//   PointSets      sets made on the fly; the label is the kind
//   PointClouds    sets in memory, as files hold them (data/point_files.hpp), or those of another source
//
// Both are data::SetSource: rows of different lengths, of points of three (or other) numbers.
#pragma once

#include <vaelib/core/random.hpp>
#include <vaelib/data/shapes.hpp>

#include <algorithm>
#include <cmath>

namespace vaelib::inline VAELIB_ABI {
namespace data {

enum class Solid { sphere, torus, box, cone, pair };

/// What one set of PointSets shows.
struct PointSetContent {
  Solid kind;
  int points;
  float scale;                  ///< radius of the ball that it fills, 0.5 to 1
  std::array<float, 3> stretch; ///< of its own axes: of a box its sides, of a torus [0] is the radius of the tube, of a cone [0] its height
  std::array<float, 4> turn;    ///< unit quaternion w, x, y, z
  std::array<Solid, 2> parts;   ///< of a pair
};

/// size() sets an epoch, other ones in every epoch unless `fixed`.
struct PointSets {
  std::uint32_t sets = 20'000;
  int least = 50, most = 2048;  ///< points; each number between is as likely
  std::uint64_t seed = 0;
  bool fixed = false;

  static constexpr std::uint32_t stream = 252;  // of the contents' own random numbers

  std::int64_t size() const { return sets; }
  int classes() const { return 5; }
  Shape shape() const {
    if (least < 0 || most < least || most > 1 << 20) fail("point sets: of ", least, " to ", most, " points, expected 0 to ", 1 << 20);
    return {3};
  }
  PointSetContent content(std::uint64_t epoch, std::uint32_t row) const;
  void count(std::uint64_t epoch, std::span<const std::uint32_t> rows, long* points) const {
    for (std::size_t i = 0; i < rows.size(); ++i) points[i] = content(epoch, rows[i]).points;
  }
  void fill(std::uint64_t epoch, std::span<const std::uint32_t> rows, float* features, std::int32_t* labels) const;

 private:
  RandomSequence numbers_of(std::uint64_t epoch, std::uint32_t row) const {
    if (fixed) epoch = 0;
    detail::check_rows({&row, 1}, size());
    return RandomSequence(RandomKey{.seed = seed, .step = epoch, .stream = stream, .ordinal = row & 0xffffffu});  // rows beyond 2^24 repeat
  }
  PointSetContent content_of(RandomSequence& numbers) const;
};

namespace detail {

using Vector3 = std::array<double, 3>;
inline double unit_number(RandomSequence& numbers) { return double(unit_interval(numbers.next())); }

/// A point of the surface of a solid that lies within the unit ball, evenly distributed over it.
inline Vector3 surface_point(Solid kind, const std::array<float, 3>& stretch, RandomSequence& numbers) {
  constexpr double two_pi = 6.283185307179586;
  const auto unit = [&] { return unit_number(numbers); };
  const double angle = two_pi * unit(), cosine = std::cos(angle), sine = std::sin(angle);
  if (kind == Solid::torus) {
    const double tube = 0.15 + 0.25 * double(stretch[0]), ring = 1 - tube;
    for (;;) {  // rejection: the outer side has more surface
      const double around = two_pi * unit(), from_axis = ring + tube * std::cos(around);
      if (unit() * (ring + tube) <= from_axis) return {from_axis * cosine, from_axis * sine, tube * std::sin(around)};
    }
  }
  if (kind == Solid::box) {
    Vector3 half{};
    double length = 0;
    for (std::size_t a = 0; a < 3; ++a) length += (half[a] = 0.3 + 0.7 * double(stretch[a])) * half[a];
    for (double& h : half) h /= std::sqrt(length);
    const double xy = half[0] * half[1], xz = half[0] * half[2], yz = half[1] * half[2];
    const double face = unit() * (xy + xz + yz);
    const std::size_t fixed = face < xy ? 2 : face < xy + xz ? 1 : 0;
    Vector3 p{};
    for (std::size_t a = 0; a < 3; ++a) p[a] = a == fixed ? (unit() < 0.5 ? -half[a] : half[a]) : (2 * unit() - 1) * half[a];
    return p;
  }
  if (kind == Solid::cone) {  // its tip on the unit sphere above, its base a circle on the sphere below
    const double base = -0.2 - 0.6 * double(stretch[0]), radius = std::sqrt(1 - base * base), side = std::hypot(radius, 1 - base);
    if (unit() * (side + radius) < side) {  // areas are pi r side and pi r r
      const double share = std::sqrt(unit());
      return {share * radius * cosine, share * radius * sine, 1 - share * (1 - base)};
    }
    const double r = radius * std::sqrt(unit());
    return {r * cosine, r * sine, base};
  }
  const double z = 2 * unit() - 1, r = std::sqrt(std::max(0.0, 1 - z * z));
  return {r * cosine, r * sine, z};
}

inline Vector3 turned(const std::array<float, 4>& q, const Vector3& p) {
  const double w = q[0], x = q[1], y = q[2], z = q[3];
  return {(1 - 2 * (y * y + z * z)) * p[0] + 2 * (x * y - w * z) * p[1] + 2 * (x * z + w * y) * p[2],
          2 * (x * y + w * z) * p[0] + (1 - 2 * (x * x + z * z)) * p[1] + 2 * (y * z - w * x) * p[2],
          2 * (x * z - w * y) * p[0] + 2 * (y * z + w * x) * p[1] + (1 - 2 * (x * x + y * y)) * p[2]};
}

}  // namespace detail

inline PointSetContent PointSets::content_of(RandomSequence& numbers) const {
  const auto unit = [&] { return detail::unit_interval(numbers.next()); };
  PointSetContent c{};
  c.points = least + int(numbers.below(std::uint32_t(most - least) + 1));
  c.kind = Solid(numbers.below(5));
  c.scale = 0.5f + 0.5f * unit();
  for (float& s : c.stretch) s = unit();
  // Shoemake 1992: a turn that is evenly distributed
  const double u = double(unit()), a = 6.283185307179586 * double(unit()), b = 6.283185307179586 * double(unit());
  c.turn = {float(std::sqrt(u) * std::cos(b)), float(std::sqrt(1 - u) * std::sin(a)), float(std::sqrt(1 - u) * std::cos(a)), float(std::sqrt(u) * std::sin(b))};
  for (Solid& part : c.parts) part = Solid(numbers.below(4));
  return c;
}

inline PointSetContent PointSets::content(std::uint64_t epoch, std::uint32_t row) const {
  shape();
  auto numbers = numbers_of(epoch, row);
  return content_of(numbers);
}

inline void PointSets::fill(std::uint64_t epoch, std::span<const std::uint32_t> rows, float* features, std::int32_t* labels) const {
  shape();
  for (std::size_t i = 0; i < rows.size(); ++i) {
    auto numbers = numbers_of(epoch, rows[i]);
    const PointSetContent c = content_of(numbers);
    for (int k = 0; k < c.points; ++k) {
      detail::Vector3 p;
      if (c.kind == Solid::pair) {  // two of half the size, one beside the other
        const std::size_t part = numbers.below(2);
        p = detail::surface_point(c.parts[part], c.stretch, numbers);
        for (double& v : p) v *= 0.5;
        p[2] += part == 0 ? 0.5 : -0.5;
      } else {
        p = detail::surface_point(c.kind, c.stretch, numbers);
      }
      p = detail::turned(c.turn, p);
      for (const double v : p) *features++ = float(v * double(c.scale));
    }
    if (labels) labels[i] = std::int32_t(c.kind);
  }
}

/// Sets in memory.
class PointClouds {
 public:
  /// Points of all sets one after another, each of `width` numbers; set s has those from offsets[s] to offsets[s + 1] - 1.
  [[gnu::cold]] PointClouds(int width, std::vector<float> points, std::vector<std::int64_t> offsets, std::vector<std::int32_t> labels = {}, int classes = 0)
      : width_(width), classes_(classes), points_(std::move(points)), offsets_(std::move(offsets)), labels_(std::move(labels)) {
    if (width < 1) fail("point clouds: points of ", width, " numbers, expected at least 1");
    if (offsets_.empty() || offsets_.front() != 0 || !std::is_sorted(offsets_.begin(), offsets_.end()) || std::uint64_t(offsets_.back()) * std::uint64_t(width) != points_.size())
      fail("point clouds: the offsets have to rise from 0 to the ", points_.size() / std::size_t(width), " points of ", width, " numbers");
    if (!labels_.empty() && labels_.size() + 1 != offsets_.size()) fail("point clouds: ", labels_.size(), " labels for ", offsets_.size() - 1, " sets");
    for (const auto label : labels_)
      if (label < 0 || label >= classes) fail("point clouds: the label ", label, ", expected 0 to ", classes - 1);
  }

  std::int64_t size() const { return std::int64_t(offsets_.size()) - 1; }
  int classes() const { return labels_.empty() ? 0 : classes_; }
  Shape shape() const { return {width_}; }
  std::span<const float> set(std::int64_t s) const {
    const auto w = std::size_t(width_), begin = std::size_t(offsets_[std::size_t(s)]) * w, end = std::size_t(offsets_[std::size_t(s) + 1]) * w;
    return std::span(points_).subspan(begin, end - begin);
  }
  std::int32_t label(std::int64_t s) const { return labels_[std::size_t(s)]; }
  /// Some of the sets, copied.
  [[gnu::cold]] PointClouds chosen(std::span<const std::uint32_t> rows) const {
    detail::check_rows(rows, size());
    std::vector<float> points;
    std::vector<std::int64_t> offsets{0};
    std::vector<std::int32_t> labels;
    for (const auto row : rows) {
      points.insert(points.end(), set(row).begin(), set(row).end());
      offsets.push_back(std::int64_t(points.size()) / width_);
      if (!labels_.empty()) labels.push_back(labels_[row]);
    }
    return {width_, std::move(points), std::move(offsets), std::move(labels), classes_};
  }
  void count(std::uint64_t, std::span<const std::uint32_t> rows, long* points) const {
    detail::check_rows(rows, size());
    for (std::size_t i = 0; i < rows.size(); ++i) points[i] = long(set(rows[i]).size()) / width_;
  }
  void fill(std::uint64_t, std::span<const std::uint32_t> rows, float* features, std::int32_t* labels) const {
    detail::check_rows(rows, size());
    for (std::size_t i = 0; i < rows.size(); ++i) {
      features = std::copy(set(rows[i]).begin(), set(rows[i]).end(), features);
      if (labels && !labels_.empty()) labels[i] = labels_[rows[i]];
    }
  }

  /// The sets of padded arrays, sets x points x width, of which mask[set x points + point] tells the true points.
  [[gnu::cold]] static PointClouds of_padded(std::span<const float> values, std::int64_t sets, std::int64_t points, int width, std::span<const std::uint8_t> mask) {
    if (sets < 0 || points < 0 || width < 1 || values.size() != std::size_t(sets) * std::size_t(points) * std::size_t(width) || mask.size() != std::size_t(sets) * std::size_t(points))
      fail("point clouds: ", values.size(), " numbers and a mask of ", mask.size(), " for ", sets, " sets of ", points, " points of ", width);
    std::vector<float> kept;
    std::vector<std::int64_t> offsets{0};
    for (std::int64_t s = 0; s < sets; ++s) {
      for (std::int64_t p = s * points; p < (s + 1) * points; ++p)
        if (mask[std::size_t(p)]) kept.insert(kept.end(), values.begin() + p * width, values.begin() + (p + 1) * width);
      offsets.push_back(std::int64_t(kept.size()) / width);
    }
    return {width, std::move(kept), std::move(offsets)};
  }

 private:
  int width_, classes_;
  std::vector<float> points_;
  std::vector<std::int64_t> offsets_;
  std::vector<std::int32_t> labels_;
};

/// Sets of the bright pixels of images: (column, row) from -1 to 1, of pixels above `threshold`; empty images are empty sets.
template <Source S>
PointClouds bright_pixels(const S& images, std::int64_t count, float threshold = 0.5f) {
  const Shape shape = images.shape();
  if (shape.channels != 1) fail("point clouds: bright pixels of images of one channel, found shape ", text_of(shape));
  count = std::min<std::int64_t>(count, images.size());
  std::vector<float> points, pixels(std::size_t(shape.size()));
  std::vector<std::int64_t> offsets{0};
  std::vector<std::int32_t> labels;
  for (std::uint32_t i = 0; i < count; ++i) {
    std::int32_t label = 0;
    images.fill(0, std::span(&i, 1), pixels.data(), images.classes() > 0 ? &label : nullptr);
    for (int y = 0; y < shape.height; ++y)
      for (int x = 0; x < shape.width; ++x)
        if (pixels[std::size_t(y * shape.width + x)] > threshold) {
          points.push_back((2 * float(x) + 1 - float(shape.width)) / float(shape.width));
          points.push_back((2 * float(y) + 1 - float(shape.height)) / float(shape.height));
        }
    offsets.push_back(std::int64_t(points.size()) / 2);
    if (images.classes() > 0) labels.push_back(label);
  }
  return {2, std::move(points), std::move(offsets), std::move(labels), images.classes()};
}

/// Sets for training, new ones in every epoch, and others for testing that stay the same.
struct PointSetsSplit {
  PointSets train, test;
  std::string name = "solids";
  std::vector<std::string> class_names{"sphere", "torus", "box", "cone", "pair"};
};
inline PointSetsSplit point_sets(int least = 50, int most = 2048, std::uint64_t seed = 0) {
  const PointSets train{.least = least, .most = most, .seed = seed};
  train.shape();  // refuses what cannot be made
  return {train, {.sets = 1'000, .least = least, .most = most, .seed = ~seed, .fixed = true}};
}

}  // namespace data
}  // namespace vaelib::inline VAELIB_ABI
