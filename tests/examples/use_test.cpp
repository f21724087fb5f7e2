// The commands of the program vae that use a trained run.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <vaelib/io/csv.hpp>
#include <vaelib/io/npy.hpp>
#include <vaelib/io/png.hpp>

#include "program.hpp"

using namespace program;

namespace {

struct TrainedRun {
  TemporaryFolder folder;
  std::string data = folder / "data", out = folder / "run";

  explicit TrainedRun(const Arguments& more = {}) {
    write_images(data, 96, 32);
    Arguments all{"train", "--quiet", "--model-type", "fc",    "--hidden-size", "8",    "--code-size",  "3", "--batch-size",
                  "32",    "--epochs", "2",           "--data", "mnist",        "--data-dir", data,     "--output-dir", out};
    all.insert(all.end(), more.begin(), more.end());
    const auto result = run(all);
    REQUIRE_MESSAGE(result.code == 0, result.err);
  }
  Result use(const std::string& command, const Arguments& more = {}) const {
    Arguments all{command, out};
    all.insert(all.end(), more.begin(), more.end());
    return run(all);
  }
  /// The picture that a command draws, in a file of its own.
  vaelib::Image draw(const std::string& command, Arguments more = {}) const {
    more.insert(more.end(), {"--output", folder / "picture.png"});
    const auto result = use(command, more);
    REQUIRE_MESSAGE(result.code == 0, result.err);
    CHECK(result.out.ends_with("picture.png\n"));
    return vaelib::read_png(folder / "picture.png");
  }
};

constexpr int tile = 2 * 28 + 2;  // an image, twice as large, and the gap behind it

}  // namespace

TEST_CASE("pictures of a trained model") {
  const TrainedRun trained;
  const auto check_tiles = [](const vaelib::Image& image, int columns, int rows) {
    CHECK(image.width == columns * tile + 2);
    CHECK(image.height == rows * tile + 2);
  };
  check_tiles(trained.draw("sample"), 10, 10);
  check_tiles(trained.draw("sample", {"--count", "7"}), 3, 3);
  check_tiles(trained.draw("reconstruct", {"--from", "20", "--count", "12"}), 12, 2);
  check_tiles(trained.draw("interpolate", {"--from", "1", "--to", "2", "--steps", "6"}), 6, 1);
  check_tiles(trained.draw("interpolate", {"--count", "4"}), 10, 4);
  check_tiles(trained.draw("traverse", {"--steps", "5"}), 5, 3);

  const auto once = trained.draw("sample", {"--seed", "3"}), again = trained.draw("sample", {"--seed", "3", "--threads", "2"});
  CHECK(once.pixels == again.pixels);
  CHECK(trained.draw("sample", {"--seed", "4"}).pixels != once.pixels);
  const auto path = trained.draw("interpolate", {"--from", "1", "--to", "2", "--steps", "2"});
  const auto ends = trained.draw("reconstruct", {"--from", "1", "--count", "2"});  // below the images themselves
  for (int y = 2; y < tile; ++y) CHECK(std::equal(path.at(0, y), path.at(path.width - 1, y), ends.at(0, y + tile)));
}

TEST_CASE("files in the folder of the run") {
  const TrainedRun trained;
  for (const char* command : {"sample", "reconstruct", "interpolate", "traverse", "encode"}) REQUIRE(trained.use(command).code == 0);
  for (const char* name : {"samples.png", "reconstructed.png", "interpolation.png", "traversal.png", "codes.csv"}) CHECK(exists(trained.out + '/' + name));
}

TEST_CASE("codes as a table and as an array of NumPy") {
  const TrainedRun trained;
  REQUIRE(trained.use("encode", {"--output", trained.folder / "codes.csv"}).code == 0);
  REQUIRE(trained.use("encode", {"--output", trained.folder / "codes.npy", "--count", "20"}).code == 0);
  const auto table = vaelib::read_csv(trained.folder / "codes.csv");
  const auto array = vaelib::read_npy(trained.folder / "codes.npy");
  CHECK(table.names == std::vector<std::string>{"label", "z0", "z1", "z2"});
  CHECK(table.rows == 32);
  CHECK(array.shape == std::vector<std::int64_t>{20, 3});
  for (std::size_t i = 0; i < 20; ++i) {
    CHECK(table.values[4 * i] == float(i % 10));
    for (std::size_t d = 0; d < 3; ++d) CHECK(table.values[4 * i + 1 + d] == array.values[3 * i + d]);
  }
}

TEST_CASE("the likelihood is above the ELBO") {
  const TrainedRun trained;
  const auto result = trained.use("evaluate", {"--samples", "50"});
  REQUIRE_MESSAGE(result.code == 0, result.err);
  double elbo = 0, log_likelihood = 0;
  REQUIRE(std::sscanf(result.out.c_str(), "32 test images, 50 samples of z each\nELBO %lf nats an image\nlog p(x), a lower bound %lf", &elbo, &log_likelihood) == 2);
  CHECK(log_likelihood > elbo);
  CHECK(elbo < 0);
}

TEST_CASE("a conditional model draws a label") {
  const TrainedRun trained({"--conditional"});
  CHECK(trained.draw("sample", {"--label", "3", "--seed", "1"}).pixels != trained.draw("sample", {"--label", "4", "--seed", "1"}).pixels);
  CHECK(trained.use("traverse").code == 0);
  CHECK(trained.use("interpolate").code == 0);
  CHECK(trained.use("evaluate", {"--samples", "3"}).code == 0);
  check_refusal(trained.use("sample", {"--label", "10"}), 1, "--label 10: the model knows the labels 0 to 9");
}

TEST_CASE("encoder and decoder as ONNX files") {
  const TrainedRun trained({"--conditional"});
  const auto result = trained.use("export", {"--output", trained.folder / "a/b"});
  REQUIRE_MESSAGE(result.code == 0, result.err);
  CHECK(result.out == trained.folder / "a/b/encoder.onnx\n" + (trained.folder / "a/b/decoder.onnx\n"));
  for (const char* name : {"encoder", "decoder"}) {
    const std::string file = vaelib::read_file(trained.folder / ("a/b/" + std::string(name) + ".onnx"), 1 << 20);
    CHECK(file.find(std::string(name) + ".labels.weight") != std::string::npos);
  }
  CHECK(trained.use("export").out == trained.out + "/encoder.onnx\n" + trained.out + "/decoder.onnx\n");
}

TEST_CASE("what is asked for and not there") {
  const TrainedRun trained;
  check_refusal(run({"sample"}), 2, "vae sample wants the folder of a run");
  check_refusal(run({"sampel", trained.out}), 2, "did you mean sample?");
  check_refusal(trained.use("sample", {"--cuont", "3"}), 2, "did you mean --count?");
  check_refusal(trained.use("sample", {"--count", "0"}), 2, "expected a whole number from 1");
  check_refusal(trained.use("sample", {"--label", "1"}), 1, "is not conditional");
  check_refusal(run({"sample", trained.folder / "none"}), 1, "holds no model.safetensors");
  check_refusal(trained.use("interpolate", {"--from", "31"}), 1, "test images 32 to 32 were asked for, there are 32");
  check_refusal(trained.use("sample", {"--output", trained.folder / "none/x.png"}), 1, "No such file or directory");
  for (const auto& help : {"sample", "encode", "evaluate"}) CHECK(run({help, "--help"}).out.find("Example") != std::string::npos);

  vaelib::write_file_atomically(trained.out + "/config.json", std::string("{}"));
  check_refusal(trained.use("sample"), 1, "config.json: is no configuration of a run");
}
