// The drawn images agree with their factors.
#include <doctest/doctest.h>

#include <vaelib/data/shapes.hpp>

#include <array>
#include <cmath>
#include <numeric>
#include <vector>

using namespace vaelib;

namespace {

static_assert(data::Source<data::Shapes>);

struct Moments {
  double area = 0, x = 0, y = 0;
};

Moments moments(const std::vector<float>& image, int size) {
  Moments m;
  for (int row = 0; row < size; ++row)
    for (int column = 0; column < size; ++column) {
      const double value = image[static_cast<std::size_t>(row * size + column)];
      m.area += value, m.x += value * (column + 0.5), m.y += value * (row + 0.5);
    }
  m.x /= m.area, m.y /= m.area;
  return m;
}

std::vector<float> draw(const data::Shapes& shapes, const data::ShapeFactors& factors) {
  std::vector<float> image(static_cast<std::size_t>(shapes.shape().size()), -1.0f);
  draw_shape(shapes, factors, image.data());
  return image;
}

}  // namespace

TEST_CASE("centroid and area are those of the factors") {
  const data::Shapes shapes{.images = 300, .seed = 5};
  const double unit_areas[] = {1.4 * 1.4, 3.14159265 * 0.55, (0.5 + 3.14159265 / 8) / (0.65661 * 0.65661)};
  for (std::uint32_t row = 0; row < 300; ++row) {
    const auto factors = shapes.factors(0, row);
    const auto found = moments(draw(shapes, factors), 64);
    CHECK(std::abs(found.x - shapes.position(factors.x)) < 0.1);
    CHECK(std::abs(found.y - shapes.position(factors.y)) < 0.1);
    const double radius = 0.2 * 64 * factors.scale;
    CHECK(found.area == doctest::Approx(unit_areas[factors.kind] * radius * radius).epsilon(0.02));
  }
}

TEST_CASE("area grows with scale, and rotation turns the shape") {
  const data::Shapes shapes;
  for (int kind = 0; kind < 3; ++kind) {
    double last = 0;
    for (float scale : {0.5f, 0.6f, 0.8f, 1.0f}) {
      const double area = moments(draw(shapes, {kind, scale, 0.3f, 0.5f, 0.5f}), 64).area;
      CHECK(area > last);
      last = area;
    }
    CHECK(draw(shapes, {kind, 1, 0, 0.5f, 0.5f}) != draw(shapes, {kind, 1, 0.5f, 0.5f, 0.5f}));
  }
  // The tip of an unturned heart points down; a quarter turn clockwise moves it to the left.
  const auto upright = draw(shapes, {2, 1, 0, 0.5f, 0.5f}), turned = draw(shapes, {2, 1, 1.5707963f, 0.5f, 0.5f});
  CHECK(upright[43 * 64 + 32] > 0.9f);
  CHECK(upright[21 * 64 + 32] < 0.1f);
  for (std::size_t row = 0; row < 64; ++row)
    for (std::size_t column = 0; column < 64; ++column)
      CHECK(std::abs(turned[column * 64 + 63 - row] - upright[row * 64 + column]) < 0.01f);
}

TEST_CASE("every pixel is in [0, 1], the border is black, edges are smooth") {
  for (int size : {8, 31, 64}) {
    const data::Shapes shapes{.image_size = size, .images = 200};
    std::vector<std::uint32_t> rows(200);
    std::iota(rows.begin(), rows.end(), 0u);
    const auto images = gather(shapes, rows, 3);
    int wrong = 0, grey = 0;
    for (std::size_t i = 0; i < images.size(); ++i) {
      const auto column = static_cast<int>(i) % size, row = static_cast<int>(i) / size % size;
      const bool border = row == 0 || column == 0 || row == size - 1 || column == size - 1;
      wrong += !(images[i] >= 0 && images[i] <= (border ? 0.5f : 1.0f));
      grey += images[i] > 0.1f && images[i] < 0.9f;
    }
    CHECK(wrong == 0);
    CHECK(grey > 200 * 2);
  }
}

TEST_CASE("a row depends on seed, epoch and index only") {
  const data::Shapes shapes{.seed = 1}, other{.seed = 2}, fixed{.seed = 1, .fixed = true};
  const std::array<std::uint32_t, 3> rows{7, 19'999, 7};
  const auto images = gather(shapes, rows, 2);
  CHECK(std::equal(images.begin(), images.begin() + 4096, images.begin() + 2 * 4096));
  CHECK(gather(shapes, std::span(rows).subspan(1, 1), 2) == std::vector(images.begin() + 4096, images.begin() + 8192));
  CHECK(gather(shapes, rows, 3) != images);
  CHECK(gather(other, rows, 2) != images);
  CHECK(gather(fixed, rows, 2) == gather(fixed, rows, 3));
  std::array<std::int32_t, 3> labels{-1, -1, -1};
  std::vector<float> again(3 * 4096);
  shapes.fill(2, rows, again.data(), labels.data());
  CHECK(again == images);
  for (std::size_t i = 0; i < 3; ++i) CHECK(labels[i] == shapes.factors(2, rows[i]).kind);
}

TEST_CASE("factors cover their ranges evenly") {
  const data::Shapes shapes;
  std::array<int, 3> kinds{};
  double scale = 0, rotation = 0, x = 0, y = 0;
  for (std::uint32_t row = 0; row < 6000; ++row) {
    const auto f = shapes.factors(1, row);
    ++kinds[static_cast<std::size_t>(f.kind)];
    scale += f.scale, rotation += f.rotation, x += f.x, y += f.y;
    CHECK((f.scale >= 0.5f && f.scale <= 1 && f.rotation >= 0 && f.rotation < 6.2832f));
    CHECK((f.x >= 0 && f.x < 1 && f.y >= 0 && f.y < 1));
  }
  for (int count : kinds) CHECK(std::abs(count - 2000) < 200);
  CHECK(scale / 6000 == doctest::Approx(0.75).epsilon(0.02));
  CHECK(rotation / 6000 == doctest::Approx(3.1416).epsilon(0.03));
  CHECK(x / 6000 == doctest::Approx(0.5).epsilon(0.03));
  CHECK(y / 6000 == doctest::Approx(0.5).epsilon(0.03));
}

TEST_CASE("sizes that cannot be drawn and rows that are not there are refused") {
  CHECK_THROWS_AS(data::shapes(7), Error);
  CHECK_THROWS_AS(data::shapes(4097), Error);
  CHECK_THROWS_AS(data::Shapes{}.factors(0, 20'000), Error);
  const auto split = data::shapes(32, 9);
  CHECK(split.train.size() == 20'000);
  CHECK(split.test.fixed);
  CHECK(split.class_names.size() == 3);
  const std::uint32_t row = 0;
  CHECK(gather(split.train, std::span(&row, 1)) != gather(split.test, std::span(&row, 1)));
}
