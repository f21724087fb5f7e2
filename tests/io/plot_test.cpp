// Charts: what is drawn, where, and what is left out.
#include <doctest/doctest.h>

#include <vaelib/io/plot.hpp>

#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

using namespace vaelib;

namespace {

constexpr double none = std::numeric_limits<double>::quiet_NaN();

bool is(const std::uint8_t* pixel, plot::Color color) {
  return pixel[0] == color.red && pixel[1] == color.green && pixel[2] == color.blue;
}

/// Pixels of exactly this colour, in the part of the picture below `top`.
int count(const Image& image, plot::Color color, int top = 0) {
  int found = 0;
  for (int y = top; y < image.height; ++y)
    for (int x = 0; x < image.width; ++x) found += is(image.at(x, y), color);
  return found;
}

constexpr int below_legend = 80;

plot::Lines chart(std::vector<double> first, std::vector<double> second = {}) {
  return {"Loss", "nats", "epoch", {{"training", std::move(first)}, {"validation", std::move(second)}}};
}

}  // namespace

TEST_CASE("each series is drawn in its colour, and named in the legend") {
  const Image image = draw(chart({3, 2, 1.5}, {3.5, 2.5, 2}));
  CHECK(image.width == 640);
  CHECK(image.height == 460);
  for (std::size_t i : {0u, 1u}) {
    CHECK(count(image, plot::color_of(i), below_legend) > 300);
    CHECK(count(image, plot::color_of(i)) > count(image, plot::color_of(i), below_legend));
  }
  CHECK(count(image, plot::grid_color) > 1000);
  CHECK(draw(std::vector{chart({1}), chart({2}), chart({3})}).width == 3 * 640);
}

TEST_CASE("larger values lie higher") {
  const Image image = draw(chart({1, 5}));
  const auto mean_y = [&](int from, int to) {
    double sum = 0, n = 0;
    for (int y = below_legend; y < image.height; ++y)
      for (int x = from; x < to; ++x)
        if (is(image.at(x, y), plot::color_of(0))) sum += y, ++n;
    return sum / n;
  };
  CHECK(mean_y(0, 320) > mean_y(320, 640) + 50);
}

TEST_CASE("values that are not finite are left out") {
  const double infinity = std::numeric_limits<double>::infinity();
  CHECK(draw(chart({none, infinity, -infinity, 1e300})).pixels == draw(chart({})).pixels);
  CHECK(count(draw(chart({none, none})), plot::color_of(0), below_legend) == 0);
  const int whole = count(draw(chart({1, 1, 1, 1, 1})), plot::color_of(0), below_legend);
  const int interrupted = count(draw(chart({1, 1, none, 1, 1})), plot::color_of(0), below_legend);
  CHECK(interrupted < whole * 0.6);
  CHECK(interrupted > whole * 0.4);
}

TEST_CASE("one point is a dot; constant and extreme values are drawn") {
  CHECK(count(draw(chart({5})), plot::color_of(0), below_legend) > 60);
  for (double value : {0.0, -7.0, 1e-30, 1e30, -1e149})
    CHECK(count(draw(chart({value, value})), plot::color_of(0), below_legend) > 300);
  CHECK(count(draw(chart({-1e149, 1e149})), plot::color_of(0), below_legend) > 300);
  CHECK(count(draw(chart({1, 1 + 1e-15})), plot::color_of(0), below_legend) > 300);
  CHECK(count(draw(chart(std::vector<double>(20'000, 2.0))), plot::color_of(0), below_legend) > 300);
}

TEST_CASE("points have the colours of their classes") {
  plot::Scatter scatter{"Latent space", "z1", "z2", {0, 1, 2, 3}, {0, 1, 0, 1}, {0, 1, 2, 11}, {}};
  const Image bare = draw(scatter);
  CHECK(bare.height == 820);
  scatter.class_names = {"a", "b", "c"};
  const Image named = draw(scatter);
  CHECK(named.width > bare.width);
  for (std::size_t i : {0u, 1u, 2u}) CHECK(count(named, plot::color_of(i)) > 50);
  scatter.x[0] = std::numeric_limits<float>::quiet_NaN();
  CHECK(draw(scatter).pixels != named.pixels);
  CHECK_NOTHROW(draw(plot::Scatter{"", "", "", {}, {}}));
  scatter.classes = {-1, 2'000'000'000, 0, 0};  // any label has some colour
  CHECK_NOTHROW(draw(scatter));
}

TEST_CASE("ticks are round numbers") {
  const auto labels = [](std::vector<double> values, int most, bool whole = false) {
    auto axis = plot::detail::fit_axis(values, 0, whole);
    plot::detail::choose_step(axis, most, whole);
    std::string line;
    for (double tick : axis.ticks()) line += axis.label(tick) + " ";
    return line;
  };
  CHECK(labels({0, 1}, 6) == "0.0 0.2 0.4 0.6 0.8 1.0 ");
  CHECK(labels({-1, 1}, 4) == "-1.0 -0.5 0.0 0.5 1.0 ");
  CHECK(labels({237, 284}, 6) == "240 250 260 270 280 ");
  CHECK(labels({1, 3}, 8, true) == "1 2 3 ");
  CHECK(labels({1, 50}, 8, true) == "10 20 30 40 50 ");
  CHECK(labels({0, 3e-7}, 3) == "0 1e-07 2e-07 3e-07 ");
  CHECK(labels({0, 3e7}, 3) == "0 1e+07 2e+07 3e+07 ");
  CHECK(labels({4}, 8, true) == "4 ");
}

TEST_CASE("text is as wide as it says, digits are equally wide, unknown characters are drawn") {
  using plot::text_width;
  CHECK(text_width("", 1) == 0);
  CHECK(text_width("1234567890", 1) == text_width("8888888888", 1));
  CHECK(text_width("mm", 2) == 2 * text_width("mm", 1));
  for (int c = 0; c < 256; ++c) {
    const std::string one(1, static_cast<char>(c));
    plot::Canvas canvas(40, 40);
    canvas.text(one, {10, 25}, {0, 0, 0}, 14);
    const bool drawn = count(canvas.image, {255, 255, 255}) < 40 * 40;
    CHECK(drawn == (c != ' '));
    int outside = 0;
    for (int y = 0; y < 40; ++y)
      for (int x = 0; x < 40; ++x)
        if (x < 9 || x > 12 + static_cast<int>(text_width(one, 1)) || y < 8 || y > 31)
          outside += !is(canvas.image.at(x, y), {255, 255, 255});
    CHECK(outside == 0);
  }
}

TEST_CASE("drawing outside the picture is cut off") {
  plot::Canvas canvas(20, 20);
  const plot::Path far{{-100, -100}, {1e6f, 1e6f}}, nowhere{{std::nanf(""), 3}, {5, std::nanf("")}};
  canvas.lines({&far, 1}, 3, {0, 0, 0});
  canvas.lines({&nowhere, 1}, 3, {200, 0, 0});
  canvas.disc({-50, 10}, 20, {0, 0, 200});
  canvas.fill({-5, 18}, {3, 99}, {0, 200, 0});
  CHECK(is(canvas.image.at(9, 9), {0, 0, 0}));
  CHECK(is(canvas.image.at(2, 19), {0, 200, 0}));
  CHECK(count(canvas.image, {0, 200, 0}) == 6);
  CHECK(count(canvas.image, {0, 0, 200}) == 0);
}

TEST_CASE("charts whose parts do not fit are refused") {
  CHECK_THROWS_AS(draw(std::vector<plot::Lines>{}), Error);
  CHECK_THROWS_AS(draw(chart({1}), 10, 400), Error);
  CHECK_THROWS_AS(draw(plot::Lines{"", "", "", {{"a", {1, 2}, {1}}}}), Error);
  CHECK_THROWS_AS(draw(plot::Scatter{"", "", "", {1}, {}}), Error);
  CHECK_THROWS_AS(draw(plot::Scatter{"", "", "", {1}, {1}, {1, 2}}), Error);
  CHECK_THROWS_AS(draw(plot::Scatter{}, 100'000), Error);
}
