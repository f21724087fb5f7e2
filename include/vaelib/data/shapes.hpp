// Images with known factors, made on the fly: one white square, ellipse or heart on black, after dSprites (Matthey,
// Higgins, Hassabis, Lerchner 2017) but with continuous factors and smooth edges. They train a VAE where no file is at
// hand, and tell whether a code found the factors.
//
// Every shape fits a circle of radius 0.2 x scale of the image size around its centroid, so all of it is always in
// sight and no factor says anything about another. A pixel is the share of it that the shape covers, from the signed
// distance d (pixels) of its centre to the edge: clamp(1/2 - d, 0, 1).
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <span>
#include <string>
#include <vaelib/core/error.hpp>
#include <vaelib/core/random.hpp>
#include <vaelib/core/shape.hpp>
#include <vaelib/data/dataset.hpp>
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

  static constexpr float radius = 0.2f;  // of the circle around a shape of scale 1, as share of the image size

  std::int64_t size() const { return images; }
  int classes() const { return 3; }
  Shape shape() const {
    if (image_size < 8 || image_size > 4096) fail("shapes: the image size is ", image_size, ", expected 8 to 4096");
    return {image_size, image_size, 1};
  }

  ShapeFactors factors(std::uint64_t epoch, std::uint32_t row) const;
  void fill(std::uint64_t epoch, std::span<const std::uint32_t> rows, float* features, std::int32_t* labels) const;

  /// The centroid in pixels (the first pixel spans 0 to 1) for a factor x or y.
  float position(float factor) const {
    const float size = static_cast<float>(image_size), margin = radius * size + 1;
    return margin + factor * (size - 2 * margin);
  }
};

/// Draws one image of size x size floats.
void draw_shape(const Shapes& shapes, const ShapeFactors& factors, float* image);

namespace detail {

/// Signed distances to shapes around the origin inside the unit circle, exact to first order near the edge.
inline float square_distance(float x, float y) { return std::max(std::abs(x), std::abs(y)) - 0.7f; }

inline float ellipse_distance(float x, float y) {
  constexpr float a = 1 / (1.0f * 1.0f), b = 1 / (0.55f * 0.55f);  // a x^2 + b y^2 = 1 on the edge
  const float value = a * x * x + b * y * y - 1;
  return value / (2 * std::sqrt(a * a * x * x + b * b * y * y));
}

/// A square on its tip and a disc on each of its upper sides, in units of the square's diagonal.
inline float heart_distance(float x, float y) {
  constexpr float unit = 0.65661f;  // tip to centroid: the farthest point, so it lies on the unit circle
  const float u = std::abs(x) * unit, v = unit - y * unit;
  const float square = (u + std::abs(v - 0.5f) - 0.5f) * 0.70710678f;
  const float disc = std::sqrt((u - 0.25f) * (u - 0.25f) + (v - 0.75f) * (v - 0.75f)) - 0.35355339f;
  return std::min(square, disc) * (1 / unit);
}

template <typename Distance>
void draw_distance(float* image, int size, float center_x, float center_y, float radius, float rotation,
                   Distance distance) {
  std::fill(image, image + std::int64_t{size} * size, 0.0f);
  const auto low = [&](float center) { return std::max(0, static_cast<int>(center - radius - 1)); };
  const auto high = [&](float center) { return std::min(size, static_cast<int>(center + radius + 2)); };
  // Pixel steps in the shape's own frame, where its radius is 1.
  const float cosine = std::cos(rotation) / radius, sine = std::sin(rotation) / radius;
  for (int row = low(center_y); row < high(center_y); ++row)
    for (int column = low(center_x); column < high(center_x); ++column) {
      const float dx = static_cast<float>(column) + 0.5f - center_x, dy = static_cast<float>(row) + 0.5f - center_y;
      const float d = distance(cosine * dx + sine * dy, cosine * dy - sine * dx) * radius;
      image[std::int64_t{row} * size + column] = std::clamp(0.5f - d, 0.0f, 1.0f);
    }
}

inline float unit_interval(std::uint32_t bits) { return static_cast<float>(bits >> 8) * 0x1p-24f; }

}  // namespace detail

inline ShapeFactors Shapes::factors(std::uint64_t epoch, std::uint32_t row) const {
  if (fixed) epoch = 0;
  detail::check_row(row, size());
  const auto half = [](std::uint64_t value, int shift) { return static_cast<std::uint32_t>(value >> shift); };
  const std::array key{half(seed, 0), half(seed, 32) ^ 0x53484150u};  // other numbers than the trainer's streams
  const auto first = philox(std::array{row, half(epoch, 0), half(epoch, 32), 0u}, key);
  const auto second = philox(std::array{row, half(epoch, 0), half(epoch, 32), 1u}, key);
  return {static_cast<int>((std::uint64_t{first[0]} * 3) >> 32), 0.5f + 0.5f * detail::unit_interval(first[1]),
          6.2831853f * detail::unit_interval(first[2]), detail::unit_interval(first[3]),
          detail::unit_interval(second[0])};
}

inline void draw_shape(const Shapes& shapes, const ShapeFactors& factors, float* image) {
  const int size = shapes.shape().width;
  const float x = shapes.position(factors.x), y = shapes.position(factors.y);
  const float radius = Shapes::radius * static_cast<float>(size) * factors.scale;
  const auto draw = [&](auto distance) {
    detail::draw_distance(image, size, x, y, radius, factors.rotation, distance);
  };
  if (factors.kind == 0)
    draw([](float u, float v) { return detail::square_distance(u, v); });
  else if (factors.kind == 1)
    draw([](float u, float v) { return detail::ellipse_distance(u, v); });
  else
    draw([](float u, float v) { return detail::heart_distance(u, v); });
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
