// The report of a run: what it holds, and that it is the same whoever writes it.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <set>

#include "program.hpp"

using namespace program;
using nlohmann::json;

namespace {

struct Reported {
  TemporaryFolder folder;
  std::string data = folder / "data", out = folder / "run";

  explicit Reported(const Arguments& more = {}) {
    write_images(data, 96, 32);
    const auto result = run(train(more));
    REQUIRE_MESSAGE(result.code == 0, result.err);
  }
  Arguments train(const Arguments& more) const {
    Arguments all{"train",       "--quiet", "--model-type", "fc", "--hidden-size", "8",
                  "--code-size", "4",       "--batch-size", "32", "--epochs",      "2",
                  "--data",      "mnist",   "--data-dir",   data, "--output-dir",  out};
    all.insert(all.end(), more.begin(), more.end());
    return all;
  }
  std::string page() const { return content(out + "/report.html"); }
  json numbers() const { return json::parse(content(out + "/report.json")); }
};

}  // namespace

TEST_CASE("a run leaves a report, every figure in both files") {
  const Reported run_of;
  const std::string page = run_of.page();
  const json numbers = run_of.numbers();
  std::set<std::string> ids;
  for (const auto& item : numbers["figures"].items()) {
    const std::string id = item.key();
    CHECK_MESSAGE(has(page, "<figure id=\"" + id + "\""), id);
    CHECK_MESSAGE(has(page, item.value()["title"].get<std::string>()), id);
    ids.insert(id);
  }
  CHECK(ids == std::set<std::string>{"active_units", "beta", "correlation", "effective_dimensions", "kl_divergence", "kl_histogram", "kl_per_dimension",
                                     "latent_map", "learning_rate", "manifold", "neg_elbo", "objective", "posterior",
                                     "reconstruction_error", "reconstruction_loss", "reconstructions",
                                     "sample_diversity", "samples", "seconds_per_epoch", "traversal_effect",
                                     "traversals"});
  for (const char* part : {"http:", "https:", "<script", "url("}) CHECK_MESSAGE(!has(page, part), part);
  for (std::size_t at = page.find("src=\""); at != std::string::npos; at = page.find("src=\"", at + 1))
    CHECK(page.substr(at, 27) == "src=\"data:image/png;base64,");

  const auto figure = [&](const char* id) -> const json& { return numbers.at("figures").at(id).at("numbers"); };
  CHECK(figure("neg_elbo")["series"][1]["x"] == json::parse("[3, 6]"));
  CHECK(figure("kl_per_dimension")["by_dimension"].size() == 4);
  CHECK(figure("latent_map")["x"].size() == 32);
  CHECK(figure("correlation")["values"].size() == 4);
  // the KL divergence by dimension sums up to that of the last epoch's test, which were the same 32 images
  double sum = 0;
  for (const double kl : figure("kl_per_dimension").at("by_dimension")) sum += kl;
  CHECK(sum == doctest::Approx(numbers["numbers"]["test_kl"].get<double>()).epsilon(1e-4));
  CHECK(figure("active_units")["active"] == 0);  // after six steps
  CHECK(has(page, "<li class=\"bad\"><b>Collapsed.</b>"));
  CHECK(numbers["tables"]["configuration"]["code-size"] == "4");
  CHECK(numbers["tables"]["data"]["training images"] == 96);
  CHECK(numbers["tables"]["timings"]["epochs"] == 2);
  CHECK(!numbers["tables"]["machine"]["processor"].get<std::string>().empty());
}

TEST_CASE("vae report writes the same report again, here or elsewhere") {
  const Reported run_of;
  const std::string page = run_of.page(), numbers = content(run_of.out + "/report.json"),
                    model = content(run_of.out + "/model.safetensors");
  vaelib::remove_file(run_of.out + "/report.html");
  const auto result = run({"report", run_of.out});
  REQUIRE_MESSAGE(result.code == 0, result.err);
  CHECK(result.out == run_of.out + "/report.html\n");
  CHECK((run_of.page() == page));
  CHECK((content(run_of.out + "/report.json") == numbers));
  REQUIRE(run({"report", run_of.out, "--output", run_of.folder / "page.html", "--threads", "2"}).code == 0);
  CHECK((content(run_of.folder / "page.html") == page));
  CHECK((content(run_of.folder / "page.json") == numbers));

  // a run that lost its report, or what it is made of, is not complete
  for (const char* lost : {"/report.json", "/report.html", "/metrics.jsonl"}) {
    vaelib::remove_file(run_of.out + lost);
    REQUIRE(run(run_of.train({"--resume"})).code == 0);
    CHECK(exists(run_of.out + lost));
    CHECK((content(run_of.out + "/report.json") == numbers));
  }
  CHECK((content(run_of.out + "/model.safetensors") == model));
}

TEST_CASE("reports of other models") {
  for (const Arguments& more : {Arguments{"--code-size", "1"},
                                {"--code-size", "2", "--conditional"},
                                {"--code-size", "150", "--epochs", "1"},
                                {"--likelihood", "gaussian"}}) {
    const Reported run_of(more);
    CHECK_MESSAGE(run_of.numbers()["figures"].size() == 21, more[1]);
  }
}

TEST_CASE("a report of what is not there") {
  const Reported run_of;
  const auto refused = [&](const std::string& sentence) {
    const auto result = run({"report", run_of.out});
    CHECK(result.code == 1);
    CHECK(std::count(result.err.begin(), result.err.end(), '\n') == 1);
    CHECK_MESSAGE(has(result.err, sentence), result.err);
  };
  const std::string metrics = run_of.out + "/metrics.jsonl", lines = content(metrics);
  for (const std::string& wrong :
       {lines + "{\"epoch\": 3}\n", lines + "7\n", lines + "{", lines + "{\"epoch\": \"3\"}"}) {
    vaelib::write_file_atomically(metrics, wrong);
    refused("metrics.jsonl: line 3: expected the metrics of an epoch as a JSON object");
  }
  vaelib::remove_file(metrics);
  refused("metrics.jsonl");
  CHECK(run({"report"}).code == 2);
}
