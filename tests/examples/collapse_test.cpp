// The program collapse.
#include <doctest/doctest.h>

#include <vaelib/io/png.hpp>

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
  CHECK(has(content(folder / "both/runs.json"), "\"avg_mutual_info\""));

  std::remove((alive + "/metrics.jsonl").c_str());  // a run without metrics: what the model tells is reported all the same
  CHECK(run({"analyze", alive, "--count", "100"}, collapse).code == 0);
  check_refusal(run({"analyze", folder / "nothing"}, collapse), 1, "holds no model.safetensors", "collapse");
  check_refusal(run({"analyze", folder / "vq.safetensors"}, collapse), 1, "the models of vqvae have no posterior", "collapse");
  check_refusal(run({"compare", alive}, collapse), 2, "at least two runs", "collapse");
  check_refusal(run({"analyze", alive, "--count", "1"}, collapse), 2, "collapse analyze --help lists the flags", "collapse");
}
