// Colour images with known content, made on the fly: one to four squares, ellipses and hearts of any colour, which may cover one
// another, on a background that shades from one colour to another. They train a colour model where no file is at hand.
//
// Coverage of a pixel as in data/shapes.hpp; levels are rounded to one of 256, so that compilers and processors agree.
#pragma once

#include <vaelib/data/shapes.hpp>

namespace vaelib::inline VAELIB_ABI {
namespace data {

struct Colour {
  float red, green, blue;  // [0, 1)
};

/// One object; of several, later ones lie in front.
struct SceneObject {
  ShapeFactors shape;
  Colour colour;
};

/// What one image of Scenes shows. The background runs from `from` to `to` along `direction` (radians).
struct Scene {
  std::array<SceneObject, 4> objects;
  int count;  // 1 to 4; the label is count - 1
  Colour from, to;
  float direction;
};

/// size() images an epoch, other ones in every epoch unless `fixed`.
struct Scenes {
  int image_size = 32;
  std::uint32_t images = 20'000;
  std::uint64_t seed = 0;
  bool fixed = false;

  static constexpr std::uint32_t stream = 253;  // of the contents' own random numbers

  std::int64_t size() const { return images; }
  int classes() const { return 4; }
  Shape shape() const {
    const Shape grey = shapes().shape();
    return {grey.height, grey.width, 3};
  }
  Scene scene(std::uint64_t epoch, std::uint32_t row) const;
  void fill(std::uint64_t epoch, std::span<const std::uint32_t> rows, float* features, std::int32_t* labels) const;

  Shapes shapes() const { return {.image_size = image_size}; }
};

inline Scene Scenes::scene(std::uint64_t epoch, std::uint32_t row) const {
  if (fixed) epoch = 0;
  detail::check_rows({&row, 1}, size());
  RandomSequence numbers(RandomKey{.seed = seed, .step = epoch, .stream = stream, .ordinal = row & 0xffffffu});  // rows beyond 2^24 repeat
  const auto unit = [&] { return detail::unit_interval(numbers.next()); };
  const auto colour = [&] {
    const float r = unit(), g = unit(), b = unit();
    return Colour{r, g, b};
  };
  Scene scene{};
  scene.count = 1 + int(numbers.below(4));
  scene.from = colour();
  scene.to = colour();
  scene.direction = 6.2831853f * unit();
  for (SceneObject& object : scene.objects) {
    object.shape.kind = int(numbers.below(3));
    object.shape.scale = 0.5f + 0.5f * unit();
    object.shape.rotation = 6.2831853f * unit();
    object.shape.x = unit();
    object.shape.y = unit();
    object.colour = colour();
  }
  return scene;
}

/// Draws one image of size x size x 3 floats; `cover` is room for size x size.
inline void draw_scene(const Shapes& size, const Scene& scene, float* image, float* cover) {
  const int n = size.image_size;
  const double right = std::cos(double(scene.direction)), down = std::sin(double(scene.direction));
  const auto mix = [](float a, float b, double share) { return float(a + (b - a) * share); };
  for (int y = 0; y < n; ++y)
    for (int x = 0; x < n; ++x) {
      const double along = std::clamp(0.5 + 0.5 * ((2.0 * x + 1 - n) * right + (2.0 * y + 1 - n) * down) / n, 0.0, 1.0);
      float* pixel = image + (std::int64_t{y} * n + x) * 3;
      pixel[0] = mix(scene.from.red, scene.to.red, along);
      pixel[1] = mix(scene.from.green, scene.to.green, along);
      pixel[2] = mix(scene.from.blue, scene.to.blue, along);
    }
  for (int k = 0; k < scene.count; ++k) {
    const SceneObject& object = scene.objects[static_cast<std::size_t>(k)];
    draw_shape(size, object.shape, cover);
    for (std::int64_t i = 0; i < std::int64_t{n} * n; ++i) {
      image[3 * i] = mix(image[3 * i], object.colour.red, cover[i]);
      image[3 * i + 1] = mix(image[3 * i + 1], object.colour.green, cover[i]);
      image[3 * i + 2] = mix(image[3 * i + 2], object.colour.blue, cover[i]);
    }
  }
  for (std::int64_t i = 0; i < std::int64_t{n} * n * 3; ++i) image[i] = detail::byte_values[std::size_t(std::clamp(image[i], 0.0f, 1.0f) * 255 + 0.5f)];
}

inline void Scenes::fill(std::uint64_t epoch, std::span<const std::uint32_t> rows, float* features, std::int32_t* labels) const {
  const Shapes size = shapes();
  std::vector<float> cover(std::size_t(image_size) * std::size_t(image_size));
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const Scene content = scene(epoch, rows[i]);
    draw_scene(size, content, features + i * cover.size() * 3, cover.data());
    if (labels) labels[i] = content.count - 1;
  }
}

/// Images for training, new ones in every epoch, and others for testing that stay the same.
struct ScenesSplit {
  Scenes train, test;
  std::string name;
  std::vector<std::string> class_names;
};

inline ScenesSplit scenes(int image_size = 32, std::uint64_t seed = 0) {
  const Scenes train{.image_size = image_size, .seed = seed};
  train.shape();  // refuses a size that cannot be drawn
  return {train, {.image_size = image_size, .images = 2'000, .seed = ~seed, .fixed = true}, "scenes", {"1 object", "2 objects", "3 objects", "4 objects"}};
}

}  // namespace data
}  // namespace vaelib::inline VAELIB_ABI
