// The program collapse.
#include <doctest/doctest.h>

#include <vaelib/io/safetensors.hpp>

#include "program.hpp"

using namespace program;

TEST_CASE("collapse: two runs are analysed and compared; what is no run is refused") {
  const Limits vae{.program = VAELIB_VAE_PROGRAM}, collapse{.program = VAELIB_COLLAPSE_PROGRAM};
  const TemporaryFolder folder;
  const std::string alive = folder / "alive", dead = folder / "dead";
  const Arguments common{"train", "--data", "shapes", "--images", "128", "--model-type", "fc", "--hidden-size", "16", "--code-size", "3", "--quiet"};
  const auto train = [&](const std::string& to, const Arguments& more) {
    Arguments all = common;
    all.insert(all.end(), {"--output-dir", to});
    all.insert(all.end(), more.begin(), more.end());
    const auto result = run(all, vae);
    REQUIRE_MESSAGE(result.code == 0, result.err);
  };
  train(alive, {"--epochs", "20", "--beta", "0.01", "--lr", "0.01"});
  train(dead, {"--epochs", "20", "--beta", "1000", "--lr", "0.01"});
  const auto one = run({"analyze", dead, "--count", "100"}, collapse);
  REQUIRE_MESSAGE(one.code == 0, one.err);
  CHECK(has(one.out, "dead: collapsed"));
  CHECK(has(one.out, "low_kl:"));
  CHECK(has(one.out, "begin with a beta below 1000"));
  for (const char* name : {"/collapse/report.html", "/collapse/report.json", "/collapse/kl.png", "/collapse/map.png"}) CHECK(exists(dead + name));
  const auto other = run({"analyze", alive, "--count", "100", "--output_dir", folder / "out", "--pc_threshold", "0.05"}, collapse);
  CHECK(has(other.out, "collapse_ratio                 0.0000"));
  CHECK(exists(folder / "out/report.html"));
  const auto both = run({"compare", alive, dead, "--output-dir", folder / "both", "--count", "100"}, collapse);
  REQUIRE_MESSAGE(both.code == 0, both.err);
  CHECK(has(content(folder / "both/compare.html"), "Test KL divergence"));
  CHECK(has(content(folder / "both/compare.html"), "Of some test samples after each epoch."));
  CHECK(has(content(folder / "both/runs.json"), "\"avg_mutual_info\""));

  const auto sets = run({"train", "--sets", "40", "--least", "5", "--most", "20", "--epochs", "1", "--width", "8", "--heads", "2", "--latent", "2", "--inducing", "3", "--quiet", "--output-dir", folder / "sets"}, Limits{.program = VAELIB_SETVAE_PROGRAM});
  REQUIRE_MESSAGE(sets.code == 0, sets.err);
  const auto of_sets = run({"analyze", folder / "sets"}, collapse);
  CHECK_MESSAGE(of_sets.code == 0, of_sets.err);
  CHECK(has(of_sets.out, "level 2"));
  CHECK(has(content(folder / "sets/collapse/report.json"), "\"level_1_kl_histogram\""));
  CHECK(has(run({"compare", dead, folder / "sets", "--output-dir", folder / "kinds", "--count", "40"}, collapse).out, "/sets "));

  std::remove((alive + "/metrics.jsonl").c_str());
  check_refusal(run({"analyze", alive}, collapse), 1, "is a run without metrics", "collapse");
  vaelib::create_directories(folder / "vq");
  const std::vector<float> numbers(1);
  vaelib::safetensors_write(folder / "vq/model.safetensors", {vaelib::SafetensorsView::of("w", {1}, numbers)}, {{"vqvae.options", "{}"}});
  check_refusal(run({"analyze", folder / "vq"}, collapse), 1, "is a run of vqvae, whose models have no posterior; `codebook check` looks at their codes", "collapse");
  vaelib::safetensors_write(folder / "vq/model.safetensors", {vaelib::SafetensorsView::of("w", {1}, numbers)}, {});
  check_refusal(run({"compare", dead, folder / "vq"}, collapse), 1, "is a run of another kind", "collapse");
  check_refusal(run({"analyze", folder / "nothing"}, collapse), 1, "holds no model.safetensors", "collapse");
  check_refusal(run({"analyze", dead + "/model.safetensors"}, collapse), 1, "the folder of the run is expected", "collapse");
  check_refusal(run({"compare", alive}, collapse), 2, "at least two runs", "collapse");
  check_refusal(run({"analyze", alive, "--count", "1"}, collapse), 2, "collapse analyze --help lists the flags", "collapse");
}
