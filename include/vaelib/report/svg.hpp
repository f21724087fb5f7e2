// Charts as inline SVG: lines and points (the charts of io/plot.hpp), bars and heat maps. html_of gives HTML,
// numbers_of the same numbers as JSON; whatever has these two can be a figure of a Report.
//
// Colours are classes that the page's style defines for light and for dark (report/style.hpp). Text is as large as the
// page's at the width of a phone. Values that are not finite are left out.
#pragma once

#include <vaelib/io/plot.hpp>
#include <vaelib/report/markup.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace vaelib::inline VAELIB_ABI {
namespace report {

/// Bars from zero, one a value. Bars of different classes have different colours; `limit` is drawn as a line where it
/// is finite.
struct Bars {
  std::string title, unit, x_label;
  std::vector<double> values;
  std::vector<std::string> names = {};  ///< of the bars; without, they are numbered from 0
  std::vector<std::int32_t> classes = {};
  std::vector<std::string> class_names = {};
  double limit = NAN;
  std::string limit_name = {};
};

/// rows x columns cells, the first row on top. Where values are below zero, two colours meet at zero.
struct HeatMap {
  std::string title, unit, x_label, y_label;
  std::vector<double> values;
  std::vector<std::string> row_names, column_names;
};

namespace detail {

using plot::detail::Axis;
using plot::detail::is_drawable;

constexpr double text_size = 12, character_width = 6.7;

inline std::string coordinate(double value) {
  char digits[40];
  std::snprintf(digits, sizeof digits, "%.1f", std::clamp(value, -1e6, 1e6));
  std::string shown = digits;
  if (shown.ends_with(".0")) shown.resize(shown.size() - 2);
  return shown;
}

/// An SVG element in the making.
class Svg {
 public:
  Svg(int width, int height, std::string_view label)
      : markup(
            text("<svg viewBox=\"0 0 ", width, ' ', height, "\" role=\"img\" aria-label=\"", escaped(label), "\">")) {}

  /// `shape` is an element without its end, like `<path d="..."`; the tooltip may be empty.
  void add(std::string_view shape, std::string_view classes, std::string_view tooltip = {}) {
    markup += text(shape, " class=\"", classes, '"');
    markup +=
        tooltip.empty() ? std::string("/>") : text("><title>", escaped(tooltip), "</title></", element_of(shape), '>');
  }
  void line(double x1, double y1, double x2, double y2, std::string_view classes) {
    add(text("<path d=\"M", coordinate(x1), ' ', coordinate(y1), 'L', coordinate(x2), ' ', coordinate(y2), '"'),
        classes);
  }
  void box(double x, double y, double width, double height, std::string_view classes, std::string_view tooltip,
           double opacity = 1) {
    add(text("<rect x=\"", coordinate(x), "\" y=\"", coordinate(y), "\" width=\"", coordinate(width), "\" height=\"",
             coordinate(height), '"',
             opacity < 1 ? text(" fill-opacity=\"", std::round(opacity * 1000) / 1000, '"') : ""),
        classes, tooltip);
  }
  void words(double x, double y, std::string_view classes, std::string_view content, std::string_view more = {}) {
    markup += text("<text x=\"", coordinate(x), "\" y=\"", coordinate(y), "\" class=\"", classes, '"', more, '>',
                   escaped(content), "</text>");
  }
  std::string end() && { return std::move(markup) + "</svg>"; }

 private:
  static std::string_view element_of(std::string_view shape) { return shape.substr(1, shape.find(' ') - 1); }

  std::string markup;
};

inline std::string color_class(std::size_t index) { return text('s', index % plot::palette.size()); }

/// The names of series or classes, each with its colour.
inline std::string legend(const std::vector<std::string>& names) {
  if (names.size() < 2) return "";
  std::string list = "<ul class=\"legend\">";
  for (std::size_t i = 0; i < names.size(); ++i)
    list += text("<li class=\"", color_class(i), "\">", escaped(names[i]), "</li>");
  return list + "</ul>";
}

/// Width of the widest of some words.
inline double width_of(const std::vector<std::string>& words) {
  std::size_t most = 0;
  for (const std::string& word : words) most = std::max(most, word.size());
  return double(most) * character_width;
}

inline std::vector<std::string> tick_labels(const Axis& axis) {
  std::vector<std::string> labels;
  for (const double tick : axis.ticks()) labels.push_back(axis.label(tick));
  return labels;
}

/// Where a chart lies in its SVG.
struct Frame {
  double left, top, right, bottom;
};

inline void draw_y_axis(Svg& svg, const Frame& frame, const Axis& y) {
  for (const double tick : y.ticks()) {
    svg.line(frame.left, y.pixel(tick), frame.right, y.pixel(tick), "mesh");
    svg.words(frame.left - 6, y.pixel(tick) + 4, "tick end", y.label(tick));
  }
}
inline void draw_x_axis(Svg& svg, const Frame& frame, const Axis& x) {
  for (const double tick : x.ticks()) {
    svg.line(x.pixel(tick), frame.bottom, x.pixel(tick), frame.bottom + 4, "axis");
    svg.words(x.pixel(tick), frame.bottom + 17, "tick middle", x.label(tick));
  }
  svg.line(frame.left, frame.bottom, frame.right, frame.bottom, "axis");
}
inline void draw_x_label(Svg& svg, const Frame& frame, std::string_view label) {
  svg.words((frame.left + frame.right) / 2, frame.bottom + 35, "label middle", label);
}
inline void draw_y_label(Svg& svg, const Frame& frame, std::string_view label) {
  if (label.empty()) return;
  const std::string y = coordinate((frame.top + frame.bottom) / 2);
  svg.words(12, (frame.top + frame.bottom) / 2, "label middle", label, text(" transform=\"rotate(-90 12 ", y, ")\""));
}
inline void place(Axis& axis, double low_pixel, double high_pixel) {
  axis.low_pixel = float(low_pixel), axis.high_pixel = float(high_pixel);
}

/// Every how manieth name fits beside the others on an axis.
inline std::size_t thinning(std::size_t count, double space_of_each, double width) {
  return count == 0 || space_of_each <= 0 ? 1 : std::max<std::size_t>(1, std::size_t(std::ceil(width / space_of_each)));
}

}  // namespace detail

// --------------------------------------------------------------------------------------------------------------- lines

inline std::string html_of(const plot::Lines& chart) {
  using namespace detail;
  constexpr int width = 360, height = 230;
  auto [x, y, empty, whole_numbers] = plot::detail::axes_of(chart);
  plot::detail::choose_step(x, 5, whole_numbers), plot::detail::choose_step(y, 6);
  const Frame frame{empty ? 20 : 12 + width_of(tick_labels(y)), 10, width - 12, height - 42};
  place(x, frame.left, frame.right), place(y, frame.bottom, frame.top);

  std::vector<std::string> names;
  for (const auto& series : chart.series) names.push_back(series.name);
  std::string label = chart.title + " by " + chart.x_label;
  for (const auto& name : names) label += ", " + name;
  Svg svg(width, height, label);
  if (empty) {
    svg.words(width / 2.0, height / 2.0, "label middle", "no values");
    return std::move(svg).end();
  }
  draw_y_axis(svg, frame, y), draw_x_axis(svg, frame, x), draw_x_label(svg, frame, chart.x_label);
  for (std::size_t s = 0; s < chart.series.size(); ++s) {
    const plot::Series& series = chart.series[s];
    std::string path;
    bool joined = false;
    for (std::size_t i = 0; i < series.y.size(); ++i) {
      const double at = plot::detail::x_of(series, i);
      const bool drawable = is_drawable(at) && is_drawable(series.y[i]);
      if (drawable) path += text(joined ? 'L' : 'M', coordinate(x.pixel(at)), ' ', coordinate(y.pixel(series.y[i])));
      joined = drawable;
    }
    svg.add(text("<path d=\"", path, '"'), "line " + color_class(s), series.name);
    for (std::size_t i = 0; i < series.y.size() && series.y.size() <= 25; ++i) {
      const double at = plot::detail::x_of(series, i);
      if (!is_drawable(at) || !is_drawable(series.y[i])) continue;
      svg.add(
          text("<circle cx=\"", coordinate(x.pixel(at)), "\" cy=\"", coordinate(y.pixel(series.y[i])), "\" r=\"3\""),
          "dot " + color_class(s),
          text(series.name, ", ", chart.x_label, ' ', shown_number(at), ": ", shown_number(series.y[i])));
    }
  }
  return std::move(svg).end() + legend(names);
}

inline Json numbers_of(const plot::Lines& chart) {
  std::vector<Json> all;
  for (const plot::Series& series : chart.series) {
    std::vector<double> xs = series.x;
    for (std::size_t i = xs.size(); i < series.y.size(); ++i) xs.push_back(plot::detail::x_of(series, i));
    all.push_back(Json::object({{"name", series.name}, {"x", xs}, {"y", series.y}}));
  }
  return Json::object({{"unit", chart.unit}, {"x_label", chart.x_label}, {"series", all}});
}

/// How many percent of the values lie in each of `bins` equal parts of [low, high]; those outside are left out.
inline plot::Series histogram(std::string name, std::span<const double> values, double low, double high,
                              int bins = 30) {
  if (!(high > low) || !std::isfinite(high - low) || bins < 1)
    fail("histogram: ", bins, " parts of ", low, " to ", high);
  plot::Series series{std::move(name), std::vector<double>(std::size_t(bins)), std::vector<double>(std::size_t(bins))};
  for (const double value : values)
    if (value >= low && value <= high)
      series.y[std::min(std::size_t(bins) - 1, std::size_t((value - low) / (high - low) * bins))] +=
          100.0 / double(values.size());
  for (int i = 0; i < bins; ++i) series.x[std::size_t(i)] = low + (i + 0.5) * (high - low) / bins;
  return series;
}

// ---------------------------------------------------------------------------------------------------------------- bars

inline std::string html_of(const Bars& chart) {
  using namespace detail;
  constexpr int width = 360, height = 230;
  const std::size_t count = chart.values.size();
  if ((!chart.names.empty() && chart.names.size() != count) ||
      (!chart.classes.empty() && chart.classes.size() != count))
    fail("bars: ", count, " values, ", chart.names.size(), " names and ", chart.classes.size(), " classes");
  std::vector<double> heights = chart.values;
  heights.push_back(0), heights.push_back(chart.limit);
  Axis y = plot::detail::fit_axis(heights, 0.05);
  if (std::all_of(heights.begin(), heights.end(), [](double v) { return !(v < 0); })) y.low = 0;
  plot::detail::choose_step(y, 6);
  const Frame frame{12 + width_of(tick_labels(y)), 10, width - 12, height - 42};
  place(y, frame.bottom, frame.top);

  std::vector<std::string> names = chart.names;
  for (std::size_t i = names.size(); i < count; ++i) names.push_back(std::to_string(i));
  Svg svg(width, height, text(chart.title, " of each ", chart.x_label));
  draw_y_axis(svg, frame, y), draw_x_label(svg, frame, chart.x_label);
  const double each = (frame.right - frame.left) / double(std::max<std::size_t>(1, count)),
               gap = std::max(std::min(each * 0.2, 6.0), each - 56);
  const std::size_t thin = thinning(count, each, width_of(names) + 6);
  for (std::size_t i = 0; i < count; ++i) {
    const double left = frame.left + double(i) * each;
    if (i % thin == 0) svg.words(left + each / 2, frame.bottom + 17, "tick middle", names[i]);
    if (!is_drawable(chart.values[i])) continue;
    const double a = y.pixel(0), b = y.pixel(chart.values[i]);
    svg.box(left + gap / 2, std::min(a, b), each - gap, std::abs(a - b),
            "bar " + color_class(chart.classes.empty() ? 0 : std::uint32_t(chart.classes[i])),
            text(names[i], ": ", shown_number(chart.values[i]), ' ', chart.unit));
  }
  svg.line(frame.left, y.pixel(0), frame.right, y.pixel(0), "axis");
  if (is_drawable(chart.limit)) {
    svg.line(frame.left, y.pixel(chart.limit), frame.right, y.pixel(chart.limit), "limit");
    svg.words(frame.right, y.pixel(chart.limit) - 5, "label end", chart.limit_name);
  }
  return std::move(svg).end() + legend(chart.class_names);
}

inline Json numbers_of(const Bars& chart) {
  Json numbers = Json::object({{"unit", chart.unit}, {"x_label", chart.x_label}, {"values", chart.values}});
  if (!chart.names.empty()) numbers.set("names", chart.names);
  if (!chart.classes.empty()) numbers.set("classes", chart.classes).set("class_names", chart.class_names);
  if (detail::is_drawable(chart.limit)) numbers.set("limit", chart.limit);
  return numbers;
}

// -------------------------------------------------------------------------------------------------------------- points

inline std::string html_of(const plot::Scatter& chart) {
  using namespace detail;
  constexpr int width = 400, height = 400;
  const std::size_t count = chart.x.size();
  if (chart.y.size() != count || (!chart.classes.empty() && chart.classes.size() != count))
    fail("points: ", count, " x, ", chart.y.size(), " y and ", chart.classes.size(), " classes");
  std::vector<std::size_t> drawn;
  std::vector<double> xs, ys;
  for (std::size_t i = 0; i < count; ++i) {
    if (!is_drawable(chart.x[i]) || !is_drawable(chart.y[i])) continue;
    drawn.push_back(i), xs.push_back(chart.x[i]), ys.push_back(chart.y[i]);
  }
  auto [x, y] = plot::detail::square_axes(xs, ys, height);
  plot::detail::choose_step(x, 6), plot::detail::choose_step(y, 6);
  const double left = 28 + width_of(tick_labels(y)), side = std::min(width - 12 - left, height - 10.0 - 42);
  const Frame frame{left, 10, left + side, 10 + side};
  place(x, frame.left, frame.right), place(y, frame.bottom, frame.top);

  Svg svg(width, int(frame.bottom) + 42,
          text(chart.title, ": ", count, " points, ", chart.y_label, " over ", chart.x_label));
  draw_y_axis(svg, frame, y);
  for (const double tick : x.ticks()) svg.line(x.pixel(tick), frame.top, x.pixel(tick), frame.bottom, "mesh");
  draw_x_axis(svg, frame, x), draw_x_label(svg, frame, chart.x_label), draw_y_label(svg, frame, chart.y_label);
  // One path for the points of a class, in parts so that no class lies upon all others.
  constexpr std::size_t part = 200;
  const auto class_of = [&](std::size_t i) {
    return chart.classes.empty() ? 0 : std::uint32_t(chart.classes[i]) % plot::palette.size();
  };
  for (std::size_t first = 0; first < drawn.size(); first += part)
    for (std::size_t c = 0; c < plot::palette.size(); ++c) {
      std::string path;
      for (std::size_t k = first; k < std::min(drawn.size(), first + part); ++k)
        if (class_of(drawn[k]) == c)
          path += text('M', coordinate(x.pixel(xs[k])), ' ', coordinate(y.pixel(ys[k])), "h0");
      if (!path.empty())
        svg.add(text("<path d=\"", path, '"'), "points " + color_class(c),
                c < chart.class_names.size() ? chart.class_names[c] : "");
    }
  return std::move(svg).end() + legend(chart.class_names);
}

inline Json numbers_of(const plot::Scatter& chart) {
  Json numbers = Json::object({{"x_label", chart.x_label}, {"y_label", chart.y_label}, {"x", chart.x}, {"y", chart.y}});
  if (!chart.classes.empty()) numbers.set("classes", chart.classes).set("class_names", chart.class_names);
  return numbers;
}

// ----------------------------------------------------------------------------------------------------------- heat maps

inline std::string html_of(const HeatMap& chart) {
  using namespace detail;
  constexpr int width = 400;
  const std::size_t rows = chart.row_names.size(), columns = chart.column_names.size();
  if (rows == 0 || columns == 0 || chart.values.size() != rows * columns)
    fail("heat map: ", chart.values.size(), " values for ", rows, " rows and ", columns, " columns");
  double low = 0, high = 0;
  for (const double value : chart.values)
    if (is_drawable(value)) low = std::min(low, value), high = std::max(high, value);
  const bool signs = low < 0;
  const double most = std::max({high, -low, 1e-300});

  const double beside = 28 + width_of(chart.row_names),
               cell = std::min({(width - 6 - beside) / double(columns), 320 / double(rows), 80.0});
  const double left = std::max(beside, (width - cell * double(columns)) / 2);
  const Frame frame{left, 6, left + cell * double(columns), 6 + cell * double(rows)};
  Svg svg(width, int(frame.bottom) + 42,
          text(chart.title, ": ", rows, " x ", columns, " values from ", low, " to ", high));
  const std::size_t thin_rows = thinning(rows, cell, text_size + 2),
                    thin = thinning(columns, cell, width_of(chart.column_names) + 6);
  for (std::size_t r = 0; r < rows; ++r) {
    const double top = frame.top + double(r) * cell;
    if (r % thin_rows == 0) svg.words(frame.left - 6, top + cell / 2 + 4, "tick end", chart.row_names[r]);
    for (std::size_t c = 0; c < columns; ++c) {
      const double value = chart.values[r * columns + c];
      if (!is_drawable(value)) continue;
      svg.box(frame.left + double(c) * cell, top, cell, cell, value < 0 ? "cell s1" : "cell s0",
              text(chart.row_names[r], ", ", chart.column_names[c], ": ", shown_number(value)), std::abs(value) / most);
    }
  }
  for (std::size_t c = 0; c < columns; c += thin)
    svg.words(frame.left + (double(c) + 0.5) * cell, frame.bottom + 17, "tick middle", chart.column_names[c]);
  draw_x_label(svg, frame, chart.x_label), draw_y_label(svg, frame, chart.y_label);
  return std::move(svg).end() + text("<p class=\"scale\"><span>", shown_number(signs ? -most : 0), "</span><i class=\"",
                                     signs ? "two" : "one", "\"></i><span>", shown_number(most), "</span></p>");
}

inline Json numbers_of(const HeatMap& chart) {
  std::vector<std::vector<double>> rows;
  const std::size_t columns = std::max<std::size_t>(1, chart.column_names.size());
  for (std::size_t i = 0; i < chart.values.size(); i += columns)
    rows.emplace_back(chart.values.begin() + long(i),
                      chart.values.begin() + long(std::min(i + columns, chart.values.size())));
  return Json::object(
      {{"unit", chart.unit}, {"row_names", chart.row_names}, {"column_names", chart.column_names}, {"values", rows}});
}

}  // namespace report
}  // namespace vaelib::inline VAELIB_ABI
