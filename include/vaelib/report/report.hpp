// One self-contained page about a run, and the same figures as numbers:
//
//   report::Report page("Codebook", "a VQ-VAE after 20 epochs");
//   page.number("perplexity", "perplexity", 402.1, "of 512 codes");
//   page.verdict(report::Mood::good, "All codes are used", "the rarest by 11 of 10000 images.");
//   page.section("Use of the codes");
//   page.figure("usage", report::Bars{"Images", "", "code", counts}, "An even line is best.");
//   page.figure("correlation", report::HeatMap{...}, "...", report::Width::half);
//   page.write("report.html");  // and report.json beside it
//
// The page needs no network, no script and no other file; charts are SVG (report/svg.hpp), pictures PNG
// (report/pictures.hpp). A chart of one's own is any type with a title and the functions html_of(chart) and
// numbers_of(chart). All text is escaped.
#pragma once

#include <vaelib/io/file.hpp>
#include <vaelib/report/markup.hpp>
#include <vaelib/report/style.hpp>
#include <vaelib/report/svg.hpp>

#include <algorithm>
#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace vaelib::inline VAELIB_ABI {
namespace report {

/// Of a card on a wide screen; on a phone all are as wide as the screen.
enum class Width { third, half, two_thirds, full };
enum class Mood { good, fair, bad };

/// A line of a table.
struct Fact {
  std::string name, shown;
  Json value;

  Fact(std::string n, const std::string& text) : name(std::move(n)), shown(text), value(text) {}
  Fact(std::string n, const char* text) : Fact(std::move(n), std::string(text)) {}
  Fact(std::string n, double number, std::string_view unit = {})
      : name(std::move(n)), shown(text(shown_number(number), unit.empty() ? "" : " ", unit)), value(number) {}
};

class Report {
 public:
  explicit Report(std::string title, std::string subtitle = {})
      : title_(std::move(title)), subtitle_(std::move(subtitle)) {}

  /// A number that the page begins with. The unit stands below it: "nats an image", "of 16".
  void number(std::string_view id, std::string_view label, double value, std::string_view unit = {}) {
    numbers.set(unique(id), value);
    tiles += text("<li><span>", escaped(label), "</span><b>", shown_number(value), "</b><small>", escaped(unit),
                  "</small></li>\n");
  }
  /// What the figures say: two words of judgement, and a sentence.
  void verdict(Mood mood, std::string_view judgement, std::string_view sentence) {
    const char* moods[] = {"good", "fair", "bad"};
    verdicts +=
        text("<li class=\"", moods[int(mood)], "\"><b>", escaped(judgement), "</b> ", escaped(sentence), "</li>\n");
    said.push_back(Json::object({{"mood", moods[int(mood)]}, {"judgement", judgement}, {"sentence", sentence}}));
  }
  /// What follows belongs to this section.
  void section(std::string_view title, std::string_view lead = {}) {
    close_grid();
    const std::string id = text("section-", ++sections);
    contents += text("<a href=\"#", id, "\">", escaped(title), "</a>\n");
    body += text("<h2 id=\"", id, "\">", escaped(title), "</h2>\n");
    if (!lead.empty()) body += text("<p class=\"lead\">", escaped(lead), "</p>\n");
  }
  void paragraph(std::string_view words) {
    close_grid();
    body += text("<p>", escaped(words), "</p>\n");
  }
  void table(std::string_view id, std::string_view title, const std::vector<Fact>& facts, Width width = Width::third) {
    Json values = Json::object();
    std::string rows;
    for (const Fact& fact : facts) {
      values.set(fact.name, fact.value);
      rows += text("<tr><th scope=\"row\">", escaped(fact.name), "</th><td>", escaped(fact.shown), "</td></tr>\n");
    }
    tables.set(unique(id), values);
    card("section", id, title, "", width, text("<table>\n", rows, "</table>"));
  }
  /// A chart. The caption says how to read it; its numbers, and more if given, go to report.json.
  template <class Chart>
  void figure(std::string_view id, const Chart& chart, std::string_view caption, Width width = Width::third,
              std::initializer_list<Json::Member> more = {}) {
    std::string unit;
    if constexpr (requires { chart.unit; }) unit = chart.unit;
    Json values = numbers_of(chart);
    for (const auto& [name, value] : more) values.set(name, value);
    figures.set(unique(id), Json::object({{"title", chart.title}, {"caption", caption}, {"numbers", values}}));
    card("figure", id, chart.title, unit, width,
         html_of(chart) + text("\n<figcaption>", escaped(caption), "</figcaption>"));
  }

  std::string html() const {
    const auto list = [](const char* name, const std::string& items) {
      return items.empty() ? std::string() : text("<ul class=\"", name, "\">\n", items, "</ul>\n");
    };
    return text("<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<title>", escaped(title_),
                "</title>\n",
                "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
                "<meta name=\"color-scheme\" content=\"light dark\">\n"
                "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; img-src data:; style-src "
                "'unsafe-inline'\">\n"
                "<link rel=\"icon\" href=\"data:,\">\n<style>",
                style, "</style>\n</head>\n<body>\n<header>\n<h1>", escaped(title_), "</h1>\n<p>", escaped(subtitle_),
                "</p>\n", list("tiles", tiles), list("verdicts", verdicts), "<nav>\n", contents,
                "</nav>\n</header>\n<main>\n", body, grid_is_open ? "</div>\n" : "",
                "</main>\n<footer>vaelib " VAELIB_VERSION
                ". The numbers of every figure are in the file of the same name that ends in "
                ".json.</footer>\n</body>\n</html>\n");
  }
  std::string json() const {
    return Json::lines({{"title", title_},
                        {"subtitle", subtitle_},
                        {"vaelib", VAELIB_VERSION},
                        {"numbers", numbers},
                        {"verdicts", said},
                        {"tables", tables},
                        {"figures", figures}})
               .text() +
           '\n';
  }
  /// The page, and report.json (the page's name with .json at its end) beside it.
  void write(const std::string& path) const {
    write_file_atomically(json_path(path), json());
    write_file_atomically(path, html());
  }
  static std::string json_path(const std::string& path) {
    return (path.ends_with(".html") ? path.substr(0, path.size() - 5) : path) + ".json";
  }

 private:
  std::string_view unique(std::string_view id) {
    const auto fits = [](char c) { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_'; };
    if (id.empty() || !std::all_of(id.begin(), id.end(), fits))
      fail("report: '", id, "' is no id: expected a-z, 0-9 and _");
    if (std::find(ids.begin(), ids.end(), id) != ids.end()) fail("report: two things have the id '", id, "'");
    ids.emplace_back(id);
    return id;
  }
  void close_grid() {
    if (std::exchange(grid_is_open, false)) body += "</div>\n";
  }
  void card(const char* element, std::string_view id, std::string_view title, std::string_view unit, Width width,
            std::string_view content) {
    const char* widths[] = {"third", "half", "two_thirds", "full"};
    if (!std::exchange(grid_is_open, true)) body += "<div class=\"grid\">\n";
    body += text('<', element, " id=\"", id, "\" class=\"card ", widths[int(width)], "\">\n<h3>", escaped(title));
    if (!unit.empty()) body += text(" <small>", escaped(unit), "</small>");
    body += text("</h3>\n", content, "\n</", element, ">\n");
  }

  std::string title_, subtitle_, tiles, verdicts, contents, body;
  std::vector<Json> said;
  std::vector<std::string> ids;
  Json numbers = Json::object(), tables = Json::lines(), figures = Json::lines();
  int sections = 0;
  bool grid_is_open = false;
};

}  // namespace report
}  // namespace vaelib::inline VAELIB_ABI
