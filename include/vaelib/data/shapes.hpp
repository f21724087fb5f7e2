// Images with known factors, made on the fly: one white square, ellipse or heart on black, after dSprites (Matthey,
// Higgins, Hassabis, Lerchner 2017) but with continuous factors and smooth edges. They train a VAE where no file is at
// hand, and tell whether a code found the factors.
//
// Every shape fits a circle of radius 0.2 x scale of the image size around its centroid, so all of it is always in
// sight and no factor says anything about another. A pixel is the share of it that the shape covers, from the signed
// distance d (pixels) of its centre to the edge: clamp(1/2 - d, 0, 1), computed in double and rounded to one of 256
// grey levels, so that compilers and processors agree on it.
#pragma once

#include <vaelib/core/error.hpp>
#include <vaelib/core/random.hpp>
#include <vaelib/core/shape.hpp>
#include <vaelib/data/dataset.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace vaelib::inline VAELIB_ABI {
namespace data {

/// What one image of Shapes shows.
struct ShapeFactors {
  int kind;        // 0 square, 1 ellipse, 2 heart; also the label
  float scale;     // [0.5, 1)
  float rotation;  // radians, [0, 2 pi), clockwise on screen
  float x, y;      // [0, 1): the centroid's place in its range, from left to right and top to bottom
};

/// size() images an epoch, other ones in every epoch unless `fixed`.
struct Shapes {
  int image_size = 64;
  std::uint32_t images = 20'000;
  std::uint64_t seed = 0;
  bool fixed = false;

  static constexpr double radius = 0.2;         // of the circle around a shape of scale 1, as share of the image size
  static constexpr std::uint32_t stream = 254;  // of the factors' own random numbers

  std::int64_t size() const { return images; }
  int classes() const { return 3; }
  Shape shape() const {
    if (image_size < 8 || image_size > 4096) fail("shapes: the image size is ", image_size, ", expected 8 to 4096");
    return {image_size, image_size, 1};
  }

  ShapeFactors factors(std::uint64_t epoch, std::uint32_t row) const;
  void fill(std::uint64_t epoch, std::span<const std::uint32_t> rows, float* features, std::int32_t* labels) const;

  /// The centroid in pixels (the first pixel spans 0 to 1) for a factor x or y.
  double position(double factor) const {
    const double margin = radius * image_size + 1;
    return margin + factor * (image_size - 2 * margin);
  }
};

/// Draws one image of size x size floats.
void draw_shape(const Shapes& shapes, const ShapeFactors& factors, float* image);

namespace detail {

/// Signed distances to shapes around the origin inside the unit circle, exact to first order near the edge.
inline double square_distance(double x, double y) { return std::max(std::abs(x), std::abs(y)) - 0.7; }

inline double ellipse_distance(double x, double y) {
  constexpr double a = 1, b = 1 / (0.55 * 0.55);  // a x^2 + b y^2 = 1 on the edge
  return (a * x * x + b * y * y - 1) / (2 * std::sqrt(a * a * x * x + b * b * y * y));
}

/// A square on its tip and a disc on each of its upper sides, in units of the square's diagonal.
inline double heart_distance(double x, double y) {
  constexpr double unit = 0.65661;  // tip to centroid: the farthest point, so it lies on the unit circle
  constexpr double half_root = 0.70710678118654752;
  const double u = std::abs(x) * unit, v = unit - y * unit;
  const double square = (u + std::abs(v - 0.5) - 0.5) * half_root;
  const double disc = std::sqrt((u - 0.25) * (u - 0.25) + (v - 0.75) * (v - 0.75)) - half_root / 2;
  return std::min(square, disc) * (1 / unit);
}

template <typename Distance>
void draw_distance(float* image, int size, double center_x, double center_y, double radius, double rotation,
                   Distance distance) {
  std::fill(image, image + std::int64_t{size} * size, 0.0f);
  const auto low = [&](double center) { return std::max(0, static_cast<int>(center - radius - 1)); };
  const auto high = [&](double center) { return std::min(size, static_cast<int>(center + radius + 2)); };
  // Pixel steps in the shape's own frame, where its radius is 1.
  const double cosine = std::cos(rotation) / radius, sine = std::sin(rotation) / radius;
  for (int row = low(center_y); row < high(center_y); ++row)
    for (int column = low(center_x); column < high(center_x); ++column) {
      const double dx = column + 0.5 - center_x, dy = row + 0.5 - center_y;
      const double d = distance(cosine * dx + sine * dy, cosine * dy - sine * dx) * radius;
      const auto level = static_cast<std::size_t>(std::clamp(0.5 - d, 0.0, 1.0) * 255 + 0.5);
      image[std::int64_t{row} * size + column] = byte_values[level];
    }
}

inline float unit_interval(std::uint32_t bits) { return static_cast<float>(bits >> 8) * 0x1p-24f; }

}  // namespace detail

inline ShapeFactors Shapes::factors(std::uint64_t epoch, std::uint32_t row) const {
  if (fixed) epoch = 0;
  detail::check_rows({&row, 1}, size());
  const RandomKey key{.seed = seed, .step = epoch, .stream = stream};
  const auto first = philox(key.counter(0, row), key.words()), second = philox(key.counter(1, row), key.words());
  return {static_cast<int>((std::uint64_t{first[0]} * 3) >> 32), 0.5f + 0.5f * detail::unit_interval(first[1]),
          6.2831853f * detail::unit_interval(first[2]), detail::unit_interval(first[3]),
          detail::unit_interval(second[0])};
}

inline void draw_shape(const Shapes& shapes, const ShapeFactors& factors, float* image) {
  const int size = shapes.shape().width;
  const double x = shapes.position(factors.x), y = shapes.position(factors.y);
  const double radius = Shapes::radius * size * factors.scale;
  const auto draw = [&](auto distance) {
    detail::draw_distance(image, size, x, y, radius, factors.rotation, distance);
  };
  if (factors.kind == 0)
    draw([](double u, double v) { return detail::square_distance(u, v); });
  else if (factors.kind == 1)
    draw([](double u, double v) { return detail::ellipse_distance(u, v); });
  else
    draw([](double u, double v) { return detail::heart_distance(u, v); });
}

inline void Shapes::fill(std::uint64_t epoch, std::span<const std::uint32_t> rows, float* features,
                         std::int32_t* labels) const {
  const auto count = static_cast<std::size_t>(shape().size());
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const auto known = factors(epoch, rows[i]);
    draw_shape(*this, known, features + i * count);
    if (labels) labels[i] = known.kind;
  }
}

/// Images for training, new ones in every epoch, and others for testing that stay the same.
struct ShapesSplit {
  Shapes train, test;
  std::string name;
  std::vector<std::string> class_names;
};

inline ShapesSplit shapes(int image_size = 64, std::uint64_t seed = 0) {
  const Shapes train{.image_size = image_size, .seed = seed};
  const Shapes test{.image_size = image_size, .images = 2'000, .seed = ~seed, .fixed = true};
  train.shape();  // refuses a size that cannot be drawn
  return {train, test, "shapes", {"square", "ellipse", "heart"}};
}

}  // namespace data
}  // namespace vaelib::inline VAELIB_ABI
