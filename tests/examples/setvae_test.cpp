// The program setvae.
#include <doctest/doctest.h>

#include <vaelib/data/point_files.hpp>
#include <vaelib/io/png.hpp>

#include "program.hpp"

using namespace program;

TEST_CASE("setvae: trains, goes on, samples, reconstructs, interpolates and analyses") {
  const Limits setvae{.program = VAELIB_SETVAE_PROGRAM};
  const TemporaryFolder folder;
  const std::string out = folder / "run";
  const Arguments common{"train", "--sets", "40", "--least", "5", "--most", "20", "--batch_size", "16", "--width", "8", "--heads", "2", "--latent", "2", "--inducing", "3", "--output_dir", out};
  const auto train = [&](const Arguments& more) {
    Arguments all = common;
    all.insert(all.end(), more.begin(), more.end());
    return run(all, setvae);
  };
  const auto first = train({"--epochs", "1", "--norm", "pre", "--initial", "mixture", "--spectral-norm", "--balance-levels", "--monitor", "avg_kl", "--patience", "3", "--keep-best"});
  REQUIRE_MESSAGE(first.code == 0, first.err);
  CHECK(has(first.out, "collapse_ratio"));
  for (const char* name : {"model.safetensors", "model_best.safetensors", "report.html", "report.json", "config.json", "metrics.csv", "collapse.csv", "collapse.jsonl", "reconstructions.png", "samples.png"})
    CHECK_MESSAGE(exists(out + '/' + name), name);
  const auto page = content(out + "/report.json");
  for (const char* figure : {"\"level_0_kl_by_dimension\"", "\"level_1_latent_map\"", "\"collapse_by_level\"", "\"samples\"", "\"reconstructions\""}) CHECK_MESSAGE(has(page, figure), figure);
  check_refusal(train({"--epochs", "2"}), 1, "holds a run already; --resume goes on", "setvae");
  const auto second = train({"--epochs", "2", "--norm", "pre", "--initial", "mixture", "--spectral-norm", "--balance-levels", "--resume"});
  CHECK_MESSAGE(second.code == 0, second.err);
  CHECK(has(second.out, "epoch 2"));
  CHECK_FALSE(has(second.out, "epoch 1"));
  const auto rows = content(out + "/collapse.csv");
  CHECK(std::count(rows.begin(), rows.end(), '\n') == 3);

  CHECK(run({"sample", out, "--count", "45", "--points", "7", "--output", folder / "drawn.npz"}, setvae).code == 0);
  CHECK(vaelib::read_npz(folder / "drawn.npz", "points").shape == std::vector<std::int64_t>{45 * 7, 3});
  CHECK(vaelib::read_npz(folder / "drawn.npz", "offsets").values.back() == 45 * 7);
  check_refusal(run({"sample", out, "--output", folder / "drawn.npy"}, setvae), 2, "expected a name that ends in .png or .npz, or --format", "setvae");
  CHECK(run({"sample", out, "--count", "14", "--format", "ply", "--output", folder / "drawn"}, setvae).code == 0);
  const auto drawn = vaelib::data::point_files(folder / "drawn");
  CHECK(drawn.sets.size() == 14);
  bool varied = false;
  for (std::int64_t s = 0; s < 14; ++s) {  // as many points as training sets have
    const auto points = drawn.sets.set(s).size() / 3;
    CHECK((points >= 5 && points <= 20));
    varied = varied || points != drawn.sets.set(0).size() / 3;
  }
  CHECK(varied);
  for (const char* command : {"sample", "reconstruct", "interpolate"}) {
    const std::string picture = folder / (std::string(command) + ".png");
    const auto result = run({command, out, "--count", "3", "--output", picture}, setvae);
    CHECK_MESSAGE(result.code == 0, result.err);
    CHECK(vaelib::read_png(picture).width > 100);
  }
  const auto analysis = run({"analyze", out}, setvae);
  CHECK_MESSAGE(analysis.code == 0, analysis.err);
  CHECK(has(analysis.out, "level 2  collapse_ratio"));
  CHECK(has(analysis.out, "training sets"));
  CHECK(exists(out + "/collapse/report.html"));
  CHECK(has(content(out + "/collapse/generation.json"), "\"nearest_neighbour_accuracy\""));

  std::vector<float> padded(12 * 5 * 2, 0.25f);
  for (std::size_t k = 0; k < padded.size(); k += 3) padded[k] *= float(k % 7);
  padded[8] = padded[9] = std::numeric_limits<float>::quiet_NaN();  // one point less in the first set
  vaelib::write_npy(folder / "sets.npy", {12, 5, 2}, padded);
  const auto own = run({"train", "--data", folder / "sets.npy", "--epochs", "1", "--width", "8", "--heads", "2", "--latent", "2", "--inducing", "2", "--levels", "1", "--output-dir", folder / "own"}, setvae);
  CHECK_MESSAGE(own.code == 0, own.err);
  CHECK(has(own.out, "10 training and 2 test sets of points of 2 numbers"));
  const auto folder_of_sets = run({"train", "--data", folder / "drawn", "--normalise", "each", "--epochs", "1", "--width", "8", "--heads", "2", "--latent", "2", "--inducing", "2", "--output-dir", folder / "own", "--overwrite"}, setvae);
  CHECK_MESSAGE(folder_of_sets.code == 0, folder_of_sets.err);
  CHECK(has(folder_of_sets.out, "12 training and 2 test sets of points of 3 numbers"));
}

TEST_CASE("setvae: what is wrong is said in one line") {
  const Limits setvae{.program = VAELIB_SETVAE_PROGRAM};
  const TemporaryFolder folder;
  const auto refused = [&](const Arguments& more, int code, const std::string& sentence) {
    Arguments all{"train", "--output-dir", folder / "none"};
    all.insert(all.end(), more.begin(), more.end());
    check_refusal(run(all, setvae), code, sentence, "setvae");
    CHECK_FALSE(exists(folder / "none"));
  };
  refused({"--heads", "3"}, 2, "--heads 3: has to divide --width 64");
  refused({"--levels", "0"}, 2, "--levels 0: expected 1 to 16");
  refused({"--least", "9", "--most", "4"}, 2, "--most 4: expected 9 to 1048576");
  refused({"--monitor", "loss"}, 2, "--monitor loss: expected one of neg_elbo, collapse_ratio");
  refused({"--beta-strategy", "sawtooth"}, 2, "expected one of constant, linear");
  refused({"--data", "clouds"}, 2, "is neither a file or folder nor one of solids and fashion-mnist");
  refused({"--data", folder / "missing.npy"}, 2, "missing.npy: is neither a file or folder");
  vaelib::write_npy(folder / "flat.npy", {4, 3}, std::vector<float>(12));
  refused({"--data", folder / "flat.npy"}, 1, "has 1 sets of points of 3 numbers, expected at least 4 of 1 to 64 numbers");
  check_refusal(run({"sample", folder / "none"}, setvae), 1, "holds no model.safetensors", "setvae");
  check_refusal(run({"analyze"}, setvae), 2, "setvae analyze --help lists the flags", "setvae");
}
