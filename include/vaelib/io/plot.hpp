// Charts as pictures: lines over epochs, panels side by side, and points coloured by class. Write them with write_png.
//
// Values that are not finite are left out (a line is interrupted there). Axes span the finite values; ticks are at
// multiples of 1, 2 or 5 times a power of ten.
#pragma once

#include <vaelib/core/error.hpp>
#include <vaelib/io/canvas.hpp>
#include <vaelib/io/image.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <span>
#include <string>
#include <vector>

namespace vaelib::inline VAELIB_ABI {
namespace plot {

/// One line. Without x, the values belong to 1, 2, 3 ...
struct Series {
  std::string name;
  std::vector<double> y;
  std::vector<double> x = {};
};

/// A chart of lines; the unit stands beside the title.
struct Lines {
  std::string title, unit, x_label;
  std::vector<Series> series;
};

/// A chart of points, one unit equally long on both axes. Without classes all are of one colour.
struct Scatter {
  std::string title, x_label, y_label;
  std::vector<float> x, y;
  std::vector<std::int32_t> classes = {};
  std::vector<std::string> class_names = {};
};

inline constexpr Color ink{38, 43, 51}, muted{110, 118, 129}, grid_color{230, 233, 237}, axis_color{170, 177, 186};

/// Ten colours that stay apart for colour-blind eyes; the first two serve most charts.
inline constexpr std::array<Color, 10> palette = {{{0, 114, 178},
                                                   {222, 110, 20},
                                                   {0, 150, 115},
                                                   {190, 80, 150},
                                                   {70, 70, 75},
                                                   {86, 180, 233},
                                                   {221, 185, 40},
                                                   {150, 25, 60},
                                                   {95, 60, 160},
                                                   {150, 155, 160}}};

inline Color color_of(std::size_t index) { return palette[index % palette.size()]; }

namespace detail {

/// Finite, and far enough from the largest double that differences are finite too.
inline bool is_drawable(double value) { return std::abs(value) < 1e150; }

/// The values an axis shows, and the pixels of its ends.
struct Axis {
  double low = 0, high = 1, step = 0.2;
  float low_pixel = 0, high_pixel = 1;

  float pixel(double value) const {
    return low_pixel + static_cast<float>((value - low) / (high - low)) * (high_pixel - low_pixel);
  }
  std::vector<double> ticks() const {
    std::vector<double> values;
    const double first = std::ceil(low / step - 1e-9), last = std::floor(high / step + 1e-9);
    for (int i = 0; i <= std::min(last - first, 100.0); ++i) values.push_back((first + i) * step);
    return values;
  }
  std::string label(double value) const {
    const double largest = std::max(std::abs(low), std::abs(high));
    char written[40];
    const auto digits = [&](double of) { return static_cast<int>(std::floor(std::log10(of) + 1e-9)); };
    if (largest < 1e6 && step >= 1e-4)
      std::snprintf(written, sizeof written, "%.*f", std::max(0, -digits(step)), value);
    else
      std::snprintf(written, sizeof written, "%.*g", std::clamp(digits(largest) - digits(step) + 1, 1, 12), value);
    return written;
  }
  float widest_label() const {
    float width = 0;
    for (double tick : ticks()) width = std::max(width, text_width(label(tick), 12.0f / 14));
    return width;
  }
};

/// An axis around the drawable values with a margin (share of their range). A single value lies in its middle.
inline Axis fit_axis(std::span<const double> values, double margin, bool whole_numbers = false) {
  Axis axis;
  bool any = false;
  for (double value : values) {
    if (!is_drawable(value)) continue;
    axis.low = any ? std::min(axis.low, value) : value;
    axis.high = any ? std::max(axis.high, value) : value;
    any = true;
  }
  double more = margin * (axis.high - axis.low);
  if (axis.high - axis.low <= 1e-9 * std::max(std::abs(axis.low), std::abs(axis.high)))
    more = whole_numbers ? 0.5 : std::max(std::abs(axis.low) * 0.1, 1e-3);
  axis.low -= more, axis.high += more;
  return axis;
}

/// The least step of 1, 2 or 5 times a power of ten that makes at most so many ticks.
inline void choose_step(Axis& axis, int most_ticks, bool whole_numbers = false) {
  const double least = (axis.high - axis.low) / most_ticks, power = std::pow(10, std::floor(std::log10(least)));
  axis.step = 10 * power;
  for (double factor : {5, 2, 1})
    if (factor * power >= least * (1 - 1e-9)) axis.step = factor * power;
  if (whole_numbers) axis.step = std::max(axis.step, 1.0);
}

/// Grid, ticks and labels of both axes.
inline void draw_axes(Canvas& canvas, const Axis& x, const Axis& y, bool vertical_grid) {
  const auto line = [&](Point a, Point b, Color color) {  // one pixel wide, sharp
    const Point low{std::floor(std::min(a.x, b.x)), std::floor(std::min(a.y, b.y))};
    canvas.fill(low, {std::floor(std::max(a.x, b.x)) + 1, std::floor(std::max(a.y, b.y)) + 1}, color);
  };
  for (double tick : y.ticks()) {
    line({x.low_pixel, y.pixel(tick)}, {x.high_pixel, y.pixel(tick)}, grid_color);
    canvas.text(y.label(tick), {x.low_pixel - 12, y.pixel(tick) + 6}, muted, 12, 1.5f, Align::right);
  }
  for (double tick : x.ticks()) {
    const float at = x.pixel(tick);
    if (vertical_grid) line({at, y.low_pixel}, {at, y.high_pixel}, grid_color);
    line({at, y.low_pixel}, {at, y.low_pixel + 6}, axis_color);
    canvas.text(x.label(tick), {at, y.low_pixel + 26}, muted, 12, 1.5f, Align::center);
  }
  line({x.low_pixel, y.low_pixel}, {x.high_pixel, y.low_pixel}, axis_color);
}

inline double x_of(const Series& series, std::size_t i) {
  return series.x.empty() ? static_cast<double>(i + 1) : series.x[i];
}

/// The line of a series, and a dot for every value as long as they are few.
inline void draw_series(Canvas& canvas, const Series& series, Color color, const Axis& x, const Axis& y) {
  std::vector<Path> paths(1);
  std::vector<Point> points;
  for (std::size_t i = 0; i < series.y.size(); ++i) {
    if (is_drawable(x_of(series, i)) && is_drawable(series.y[i])) {
      points.push_back({x.pixel(x_of(series, i)), y.pixel(series.y[i])});
      paths.back().push_back(points.back());
    } else if (!paths.back().empty()) {
      paths.emplace_back();
    }
  }
  canvas.lines(paths, 2.6f, color);
  if (points.size() <= 30)
    for (const Point& point : points) canvas.disc(point, points.size() == 1 ? 6.0f : 4.0f, color);
}

/// The axes that hold all lines of a chart, with steps yet to be chosen.
struct LineAxes {
  Axis x, y;
  bool empty = true, whole_numbers = true;  ///< no values; whether all x are whole
};
inline LineAxes axes_of(const Lines& chart) {
  LineAxes axes;
  std::vector<double> xs, ys;
  for (const Series& series : chart.series)
    for (std::size_t i = 0; i < series.y.size(); ++i) {
      if (!is_drawable(series.y[i]) || !is_drawable(x_of(series, i))) continue;
      xs.push_back(x_of(series, i)), ys.push_back(series.y[i]);
      axes.whole_numbers = axes.whole_numbers && xs.back() == std::floor(xs.back());
    }
  axes.empty = ys.empty();
  axes.x = fit_axis(xs, 0.02, axes.whole_numbers), axes.y = fit_axis(ys, 0.06);
  return axes;
}

inline void draw_panel(Canvas& canvas, const Lines& chart, float left, float width, float height) {
  auto [x, y, empty, whole_numbers] = axes_of(chart);
  choose_step(x, 8, whole_numbers), choose_step(y, 7);
  const float edge = left + 28;
  x.low_pixel = edge + y.widest_label() + 12, x.high_pixel = left + width - 28;
  y.low_pixel = height - 70, y.high_pixel = 92;

  canvas.text(chart.title, {edge, 40}, ink, 16, 2.4f);
  canvas.text(chart.unit, {edge + text_width(chart.title, 16.0f / 14) + 14, 40}, muted, 14, 1.6f);
  float at = edge;
  for (std::size_t i = 0; i < chart.series.size(); ++i) {
    const Path sample{{at + 2, 65}, {at + 24, 65}};
    canvas.lines({&sample, 1}, 3.2f, color_of(i));
    canvas.text(chart.series[i].name, {at + 34, 71}, ink, 12, 1.5f);
    at += 34 + text_width(chart.series[i].name, 12.0f / 14) + 26;
  }
  if (empty) {
    canvas.text("no values", {left + width / 2, height / 2}, muted, 14, 1.6f, Align::center);
    return;
  }
  draw_axes(canvas, x, y, false);
  canvas.text(chart.x_label, {(x.low_pixel + x.high_pixel) / 2, height - 18}, muted, 12, 1.5f, Align::center);
  for (std::size_t i = 0; i < chart.series.size(); ++i) draw_series(canvas, chart.series[i], color_of(i), x, y);
}

/// Two axes of the same length in values and in pixels, for a picture of the given height.
inline std::array<Axis, 2> square_axes(std::span<const double> xs, std::span<const double> ys, float height) {
  std::array axes{fit_axis(xs, 0.04), fit_axis(ys, 0.04)};
  const double half = std::max(axes[0].high - axes[0].low, axes[1].high - axes[1].low) / 2;
  for (Axis& axis : axes) {
    const double middle = (axis.low + axis.high) / 2;
    axis.low = middle - half, axis.high = middle + half;
    choose_step(axis, 8);
  }
  auto& [x, y] = axes;
  y.low_pixel = height - 70, y.high_pixel = 92;
  x.low_pixel = 40 + y.widest_label(), x.high_pixel = x.low_pixel + y.low_pixel - y.high_pixel;
  return axes;
}

/// The names of the classes in a column, each with its colour.
inline void draw_legend(Canvas& canvas, const std::vector<std::string>& names, Point at) {
  for (std::size_t i = 0; i < names.size(); ++i, at.y += 30) {
    canvas.disc({at.x + 7, at.y - 6}, 7, color_of(i));
    canvas.text(names[i], {at.x + 26, at.y}, ink, 12, 1.5f);
  }
}

}  // namespace detail

/// Panels of lines side by side, each width x height pixels.
inline Image draw(std::span<const Lines> panels, int width = 640, int height = 460) {
  if (panels.empty() || panels.size() > 100 || width < 200 || height < 200 || width > 10'000 || height > 10'000)
    fail("plot: ", panels.size(), " panels of ", width, " x ", height,
         ", expected 1 to 100 of 200 x 200 to 10000 x 10000");
  for (const Lines& panel : panels)
    for (const Series& series : panel.series)
      if (!series.x.empty() && series.x.size() != series.y.size())
        fail("plot: series ", series.name, " has ", series.x.size(), " x for ", series.y.size(), " y");
  Canvas canvas(width * static_cast<int>(panels.size()), height);
  for (std::size_t i = 0; i < panels.size(); ++i)
    detail::draw_panel(canvas, panels[i], static_cast<float>(width * static_cast<int>(i)), static_cast<float>(width),
                       static_cast<float>(height));
  return std::move(canvas.image);
}

inline Image draw(const Lines& chart, int width = 640, int height = 460) {
  return draw(std::span(&chart, 1), width, height);
}

/// A square chart of points `height` pixels high, with the names of the classes on its right.
inline Image draw(const Scatter& chart, int height = 820) {
  if (height < 200 || height > 10'000) fail("plot: a height of ", height, ", expected 200 to 10000");
  if (chart.x.size() != chart.y.size() || (!chart.classes.empty() && chart.classes.size() != chart.x.size()))
    fail("plot: ", chart.x.size(), " x, ", chart.y.size(), " y and ", chart.classes.size(), " classes");
  std::vector<std::size_t> drawn;
  std::vector<double> xs, ys;
  for (std::size_t i = 0; i < chart.x.size(); ++i) {
    if (!detail::is_drawable(chart.x[i]) || !detail::is_drawable(chart.y[i])) continue;
    drawn.push_back(i), xs.push_back(chart.x[i]), ys.push_back(chart.y[i]);
  }
  auto [x, y] = detail::square_axes(xs, ys, static_cast<float>(height));
  float legend = 0;
  for (const std::string& name : chart.class_names) legend = std::max(legend, text_width(name, 12.0f / 14) + 54);
  Canvas canvas(static_cast<int>(std::min(x.high_pixel + 28 + legend, 20'000.0f)), height);

  canvas.text(chart.title, {28, 40}, ink, 16, 2.4f);
  canvas.text(chart.y_label, {28, 71}, muted, 12, 1.5f);
  canvas.text(chart.x_label, {(x.low_pixel + x.high_pixel) / 2, y.low_pixel + 52}, muted, 12, 1.5f, Align::center);
  detail::draw_axes(canvas, x, y, true);
  detail::draw_legend(canvas, chart.class_names, {x.high_pixel + 28, y.high_pixel + 14});
  const float radius = drawn.size() <= 300 ? 5.0f : drawn.size() <= 3000 ? 3.5f : 2.5f;
  for (std::size_t i : drawn) {
    const auto color = color_of(chart.classes.empty() ? 0 : static_cast<std::uint32_t>(chart.classes[i]));
    canvas.disc({x.pixel(chart.x[i]), y.pixel(chart.y[i])}, radius, color, 0.65f);
  }
  return std::move(canvas.image);
}

}  // namespace plot
}  // namespace vaelib::inline VAELIB_ABI
