// Reports: what they say is escaped, their files hold every figure, and charts put numbers where they belong.
#include <doctest/doctest.h>

#include <cmath>
#include <filesystem>
#include <limits>
#include <nlohmann/json.hpp>
#include <string>
#include <vaelib/io/png.hpp>
#include <vaelib/report/pictures.hpp>
#include <vaelib/report/report.hpp>
#include <vaelib/report/training.hpp>
#include <vector>

using namespace vaelib;
using nlohmann::json;

namespace {

bool has(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }
std::size_t count(const std::string& text, const std::string& part) {
  std::size_t found = 0;
  for (std::size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++found;
  return found;
}

const char* evil = "<script>alert('\"&')</script>";
const char* tamed = "&lt;script&gt;alert(&#39;&quot;&amp;&#39;)&lt;/script&gt;";

/// A chart of one's own, as a later program would write it.
struct Dial {
  std::string title;
  double value;
};
std::string html_of(const Dial& dial) {
  return text("<svg role=\"img\" aria-label=\"dial\"><text>", dial.value, "</text></svg>");
}
report::Json numbers_of(const Dial& dial) { return report::Json::object({{"value", dial.value}}); }

}  // namespace

TEST_CASE("text is escaped, wherever it stands") {
  CHECK(report::escaped(evil) == tamed);
  CHECK(report::escaped("caf\xC3\xA9 \xF0\x9F\x90\x98 a\xFFz") == "caf\xC3\xA9 \xF0\x9F\x90\x98 a\xEF\xBF\xBDz");
  CHECK(report::escaped(std::string("a\0b\x1f\tc\n", 7)) == "a b \tc\n");

  report::Report page(evil, evil);
  page.number("n", evil, 1, evil);
  page.verdict(report::Mood::bad, evil, evil);
  page.section(evil, evil);
  page.paragraph(evil);
  page.table("t", evil, {{evil, evil}});
  page.figure("lines", plot::Lines{evil, evil, evil, {{evil, {1, 2}}, {evil, {2, 1}}}}, evil);
  page.figure("bars", report::Bars{evil, evil, evil, {1}, {evil}, {0}, {evil, evil}, 0.5, evil}, evil);
  page.figure("points", plot::Scatter{evil, evil, evil, {1}, {1}, {0}, {evil, evil}}, evil);
  page.figure("heat", report::HeatMap{evil, evil, evil, evil, {1}, {evil}, {evil}}, evil);
  page.figure("picture", report::Pictures{evil, {{evil, blank_image(2, 2, 1, 0)}, {evil, blank_image(2, 2, 3, 0)}}},
              evil);
  CHECK(!has(page.html(), "<script"));
  CHECK(!has(page.html(), "alert('"));
  CHECK(count(page.html(), tamed) > 30);
  const json numbers = json::parse(page.json());
  CHECK(numbers["title"] == evil);
  CHECK(numbers["figures"]["bars"]["numbers"]["names"][0] == evil);
}

TEST_CASE("a page asks for nothing from elsewhere") {
  report::Report page("A page");
  page.section("S");
  page.figure("picture", report::Pictures{"P", {{"one", blank_image(3, 2, 1, 128)}}}, "c");
  const std::string html = page.html();
  for (const char* part : {"http:", "https:", "url(", "@import", "<script", "src=\"//"})
    CHECK_MESSAGE(!has(html, part), part);
  CHECK(count(html, "src=\"") == count(html, "src=\"data:image/png;base64,"));
  CHECK(has(html, "default-src 'none'"));
  CHECK(has(html, "prefers-color-scheme: dark"));
}

TEST_CASE("base64 is that of RFC 4648") {
  const auto encode = [](const std::string& text) {
    return report::base64({reinterpret_cast<const std::uint8_t*>(text.data()), text.size()});
  };
  CHECK(encode("") == "");
  CHECK(encode("f") == "Zg==");
  CHECK(encode("fo") == "Zm8=");
  CHECK(encode("foo") == "Zm9v");
  CHECK(encode("foob") == "Zm9vYg==");
  CHECK(encode("foobar") == "Zm9vYmFy");
  CHECK(encode("\xff\xef\xbf") == "/++/");
}

TEST_CASE("JSON reads back") {
  using report::Json;
  const double inf = std::numeric_limits<double>::infinity();
  Json object = Json::object({{"a\"b\n", 1}, {"third", 1.0 / 3}, {"float", 0.1f}, {"big", std::uint64_t(-1)}});
  object.set("none", NAN)
      .set("more", std::vector<double>{1, inf, -2.5})
      .set("words", std::vector<std::string>{"x", "\xFF\t"});
  const json read = json::parse(Json::lines({{"yes", true},
                                             {"object", object},
                                             {"empty", Json::object()},
                                             {"rows", Json::lines({{"r", std::vector<std::vector<int>>{{1, 2}, {}}}})}})
                                    .text());
  CHECK(read["yes"] == true);
  CHECK(read["object"]["a\"b\n"] == 1);
  CHECK(read["object"]["third"] == 1.0 / 3);
  CHECK(read["object"]["float"] == 0.1);
  CHECK(read["object"]["big"] == std::uint64_t(-1));
  CHECK(read["object"]["none"].is_null());
  CHECK(read["object"]["more"] == json::parse("[1, null, -2.5]"));
  CHECK(read["object"]["words"][1] == "\xEF\xBF\xBD\t");
  CHECK(read["empty"].empty());
  CHECK(read["rows"]["r"] == json::parse("[[1, 2], []]"));
}

TEST_CASE("numbers for the eye") {
  CHECK(report::shown_number(0.0145321) == "0.0145");
  CHECK(report::shown_number(13.4567) == "13.46");
  CHECK(report::shown_number(242.44) == "242.4");
  CHECK(report::shown_number(9999) == "9999");
  CHECK(report::shown_number(10000) == "10,000");
  CHECK(report::shown_number(-1688289) == "-1,688,289");
  CHECK(report::shown_number(NAN) == "nan");
}

TEST_CASE("every figure is in both files, under its id") {
  report::Report page("All", "of them");
  page.number("total", "total", 2.5, "nats");
  page.section("First", "lead");
  page.figure("dial", Dial{"A dial", 0.25}, "Reads from left to right.", report::Width::full, {{"limit", 9}});
  page.figure("usage", report::Bars{"Usage", "images", "code", {3, 0, 5}}, "c");
  page.section("Second");
  page.table("machine", "Machine", {{"threads", 2}, {"name", "x"}, {"time", 1.5, "s"}});
  const std::string path =
      (std::filesystem::temp_directory_path() / text("vaelib_report_", ::getpid(), ".html")).string();
  page.write(path);
  const std::string html = read_file(path, 1 << 20), numbers_path = report::Report::json_path(path);
  const json numbers = json::parse(read_file(numbers_path, 1 << 20));
  std::filesystem::remove(path), std::filesystem::remove(numbers_path);

  CHECK(numbers["figures"].size() == 2);
  for (const auto& [id, figure] : numbers["figures"].items()) {
    CHECK(count(html, "<figure id=\"" + id + "\"") == 1);
    CHECK(has(html, figure["caption"].get<std::string>()));
  }
  CHECK(numbers["figures"]["dial"]["numbers"] == json::parse(R"({"value": 0.25, "limit": 9})"));
  CHECK(numbers["figures"]["usage"]["numbers"]["values"] == json::parse("[3, 0, 5]"));
  CHECK(numbers["tables"]["machine"] == json::parse(R"({"threads": 2, "name": "x", "time": 1.5})"));
  CHECK(numbers["numbers"]["total"] == 2.5);
  CHECK(has(html, "<a href=\"#section-2\">Second</a>"));
  CHECK(count(html, "<div") == count(html, "</div>"));
  CHECK(report::Report::json_path("a/b") == "a/b.json");
}

TEST_CASE("ids are simple and given once") {
  report::Report page("x");
  page.number("a_1", "a", 1);
  CHECK_THROWS_WITH_AS(page.number("a_1", "a", 1), "report: two things have the id 'a_1'", Error);
  CHECK_THROWS_WITH_AS(page.figure("a_1", Dial{"d", 1}, ""), "report: two things have the id 'a_1'", Error);
  for (const char* id : {"", "a b", "A", "\"", "a-b"}) CHECK_THROWS_AS(page.table(id, "t", {}), Error);
}

TEST_CASE("lines go from corner to corner, and break where there is no number") {
  const std::string svg = report::html_of(plot::Lines{"T", "", "step", {{"a", {0, NAN, 10, 20}, {0, 1, 2, 3}}}});
  CHECK(count(svg, "<circle") == 3);
  CHECK(has(svg, "<title>a, step 3: 20</title>"));
  CHECK(has(svg, "aria-label=\"T by step, a\""));
  const std::size_t path = svg.find("<path d=\"M", svg.find("class=\"axis\"") + 200);
  CHECK(path != std::string::npos);
  const std::string line = svg.substr(svg.rfind("<path", svg.find("class=\"line s0\"")));
  CHECK(count(line.substr(0, line.find('>')), "M") == 2);
  CHECK(count(line.substr(0, line.find('>')), "L") == 1);
  CHECK(has(report::html_of(plot::Lines{"T", "", "x", {{"a", {NAN}}}}), "no values"));
  CHECK(has(report::html_of(plot::Lines{"T", "", "x", {}}), "no values"));
  CHECK(report::numbers_of(plot::Lines{"T", "u", "x", {{"a", {5, NAN}}}}).text() ==
        R"({"unit": "u", "x_label": "x", "series": [{"name": "a", "x": [1, 2], "y": [5, null]}]})");
}

TEST_CASE("bars are as high as their values") {
  const std::string svg =
      report::html_of(report::Bars{"B", "nats", "z", {1, 2, NAN, 4}, {"a", "b", "c", "d"}, {0, 0, 0, 9}});
  std::vector<double> heights;
  for (std::size_t at = svg.find("<rect"); at != std::string::npos; at = svg.find("<rect", at + 1))
    heights.push_back(std::strtod(svg.c_str() + svg.find("height=\"", at) + 8, nullptr));
  REQUIRE(heights.size() == 3);
  CHECK(heights[1] == doctest::Approx(2 * heights[0]).epsilon(0.01));  // coordinates have one decimal
  CHECK(heights[2] == doctest::Approx(4 * heights[0]).epsilon(0.01));
  CHECK(has(svg, "class=\"bar s9\"><title>d: 4 nats</title>"));
  CHECK(has(report::html_of(report::Bars{"B", "", "z", {-1, 1}}), "bar s0"));
  CHECK(has(report::html_of(report::Bars{"B", "", "z", {}}), "<svg"));
  CHECK_THROWS_AS(report::html_of(report::Bars{"B", "", "z", {1}, {"a", "b"}}), Error);
}

TEST_CASE("points and cells") {
  plot::Scatter points{"S", "x", "y", {}, {}, {}, {"even", "odd"}};
  for (int i = 0; i < 500; ++i)
    points.x.push_back(float(i)), points.y.push_back(float(i % 7)), points.classes.push_back(i % 2);
  points.x[3] = NAN;
  const std::string svg = report::html_of(points);
  CHECK(count(svg, "h0") == 499);
  CHECK(count(svg, "<title>odd</title>") == 3);  // parts of 200
  CHECK(has(svg, "<li class=\"s1\">odd</li>"));
  points.y.pop_back();
  CHECK_THROWS_AS(report::html_of(points), Error);

  const std::string heat =
      report::html_of(report::HeatMap{"H", "", "x", "y", {1, -0.5, NAN, 0}, {"a", "b"}, {"c", "d"}});
  CHECK(count(heat, "<rect") == 3);
  CHECK(has(heat, "fill-opacity=\"0.5\" class=\"cell s1\"><title>a, d: -0.5</title>"));
  CHECK(has(heat, "class=\"two\""));
  CHECK_THROWS_AS(report::html_of(report::HeatMap{"H", "", "", "", {1}, {"a"}, {"b", "c"}}), Error);
}

TEST_CASE("a histogram counts every value once") {
  const std::vector<double> values{0, 0.1, 0.5, 0.99, 1, NAN};
  const auto series = report::histogram("h", values, 0, 1, 2);
  CHECK(series.x == std::vector<double>{0.25, 0.75});
  CHECK(series.y[0] == doctest::Approx(100 * 2 / 6.0));
  CHECK(series.y[1] == doctest::Approx(100 * 3 / 6.0));
  CHECK_THROWS_AS(report::histogram("h", values, 1, 1), Error);
  CHECK_THROWS_AS(report::histogram("h", values, 0, HUGE_VAL), Error);
}

TEST_CASE("embedded pictures are the pictures, enlarged by whole factors") {
  Image image = blank_image(30, 2, 1, 7);
  const std::string html = report::html_of(report::Pictures{"P", {{"strip", image}}, 100});
  CHECK(has(html, "width=\"90\" height=\"6\""));
  CHECK(has(html, report::base64(encode_png(image))));
  CHECK(has(report::html_of(report::Pictures{"P", {{"strip", image}}, 10}), "width=\"30\""));
  CHECK(has(report::html_of(report::Pictures{"P", {{"strip", image}, {"short", blank_image(10, 2, 1, 7)}}, 60}),
            "width=\"20\""));
  const std::vector<float> two(2 * 4);
  CHECK(report::tiles(two, {2, 2, 1}, 2).width == 7);
}

TEST_CASE("the charts of a training say when it was best") {
  const auto verdict_of = [](std::vector<double> losses) {
    History history;
    for (const double loss : losses) {
      EpochMetrics row;
      row.epoch = std::int64_t(history.size()) + 1, row.step = 10 * row.epoch, row.val_recon = loss, row.seconds = 2;
      history.push_back(row);
    }
    report::Report page("x");
    report::add_training(page, history);
    report::add_machine(page, history, 100, 3);
    const json numbers = json::parse(page.json());
    CHECK(numbers["figures"]["neg_elbo"]["numbers"]["series"][1]["y"] == losses);
    CHECK(numbers["figures"]["learning_rate"]["numbers"]["series"][0]["x"].size() == losses.size());
    if (!losses.empty()) CHECK(numbers["tables"]["timings"]["training samples"] == 50);
    CHECK(numbers["tables"]["machine"]["threads"] == 3);
    return numbers["verdicts"].empty() ? "" : numbers["verdicts"][0]["judgement"].get<std::string>();
  };
  CHECK(verdict_of({3, 2, 1}) == "Still learning.");
  CHECK(verdict_of({3, 1, 2}) == "Learned.");
  CHECK(verdict_of({1, 2, 2, 2, 2}) == "Past its best.");
  CHECK(verdict_of({1}) == "");
  CHECK(verdict_of({}) == "");
}
