// vae train: configuration files, trials, interruption, what is kept, what it begins with, and data from all kinds of files.
#include <doctest/doctest.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <vaelib/io/npy.hpp>
#include <vaelib/io/png.hpp>
#include <vaelib/io/safetensors.hpp>

#include "program.hpp"

using namespace program;
using Json = nlohmann::json;

namespace {

struct Place {
  TemporaryFolder folder;
  std::string data = folder / "data", out = folder / "out";

  Place() { write_images(data, 96, 32); }
  std::string operator/(const std::string& name) const { return folder / name; }

  /// A run that takes a moment.
  Arguments train(const Arguments& more = {}, const std::string& of = {}) const {
    Arguments all{"train",        "--model-type", "fc", "--hidden-size", "8",    "--code-size",  "2", "--batch-size", "32",
                  "--epochs",     "2",            "--quiet", "--data",   of.empty() ? data : of, "--output-dir", out};
    all.insert(all.end(), more.begin(), more.end());
    return all;
  }
  Json config() const { return Json::parse(content(out + "/config.json")); }
};

void succeed(const Arguments& arguments) {
  const auto result = run(arguments);
  REQUIRE_MESSAGE(result.code == 0, result.err);
}

}  // namespace

TEST_CASE("flags from a file") {
  const Place place;
  const auto file = [&](const std::string& text) {
    vaelib::write_file_atomically(place / "flags.json", text);
    return place / "flags.json";
  };
  Arguments flags{"train", "--config", file(R"({"epochs": 3, "model_type": "fc", "hidden-size": 7, "lr": 0.5, "conditional": true})"), "--lr", "0.25", "--print-config"};
  const auto printed = run(flags);
  REQUIRE_MESSAGE(printed.code == 0, printed.err);
  const Json config = Json::parse(printed.out);
  CHECK(config["epochs"] == 3);
  CHECK(config["hidden_size"] == 7);
  CHECK(config["conditional"] == true);
  CHECK(config["lr"] == 0.25);  // the command line counts more
  CHECK(run({"train", "--config", file(printed.out), "--print-config"}).out == printed.out);

  SUBCASE("the configuration of a run makes the same run") {
    succeed(place.train({"--seed", "5"}));
    const std::string model = content(place.out + "/model.safetensors");
    succeed({"train", "--config", place.out + "/config.json", "--output-dir", place / "again", "--quiet"});
    CHECK(content(place / "again/model.safetensors") == model);
  }
  SUBCASE("what is wrong in it") {
    const auto refuse = [&](const std::string& text, int code, const std::string& sentence) { check_refusal(run({"train", "--config", file(text)}), code, sentence); };
    refuse(R"({"epoch": 3})", 2, "flags.json: epoch is no flag of vae train; did you mean epochs?");
    refuse(R"({"epochs": 0})", 2, "flags.json: epochs: expected a whole number from 1");
    refuse(R"({"conditional": "maybe"})", 2, "flags.json: conditional: expected true or false, found 'maybe'");
    refuse(R"({"epochs": [3]})", 1, "flags.json: epochs: expected a text, a number, true or false");
    refuse(R"({"epochs": 3, "epochs": 4})", 1, "flags.json: epochs is given twice");
    refuse(R"({"epochs": 3)", 1, "flags.json: is no JSON: parse error at line 1");
    refuse("[]", 1, "flags.json: is no configuration");
    refuse(R"({"\u001b[2J": 3})", 2, "flags.json: ?[2J is no flag of vae train");
    refuse(R"({"options": [[[[[[[[[1]]]]]]]]]})", 1, "flags.json: objects and arrays are nested more than 8 deep");
    refuse(std::string(2'000'000, '['), 1, "flags.json: has 2000000 bytes; at most 1048576 were expected");
    check_refusal(run({"train", "--config", place / "none.json"}), 1, "none.json: cannot open");
  }
}

TEST_CASE("a trial says what would be done, and writes nothing") {
  const Place place;
  Arguments flags = place.train({"--dry-run", "--ema", "0.9"});
  const auto result = run(flags);
  REQUIRE_MESSAGE(result.code == 0, result.err);
  CHECK(!exists(place.out));
  for (const char* part : {"encoder.1.weight", "[8,784]", "6272", "MB of weights", "step 1    loss", "would write into", "latent_space.png"})
    CHECK_MESSAGE(has(result.out, part), part);
}

TEST_CASE("an interrupted run says how to go on, and goes on to the same bits") {
  const Place place;
  const Arguments flags{"--epochs", "40", "--checkpoint-every", "5", "--ema", "0.99"};
  succeed(place.train(flags));
  const std::string model = content(place.out + "/model.safetensors");
  for (const int signal : {SIGINT, SIGTERM}) {
    std::filesystem::remove_all(place.out);
    const auto stopped = run(place.train(flags), {.killed_after = place.out + "/checkpoints/checkpoint-000000000005.safetensors", .signal = signal});
    if (stopped.code != 0) {  // it may have come to its end before the signal did
      CHECK(stopped.code == 128 + signal);
      CHECK_MESSAGE(has(stopped.err, "which is saved; go on with\n  vae train --output-dir '" + place.out + "' --resume\n"), stopped.err);
    }
    succeed({"train", "--output-dir", place.out, "--resume", "--quiet", "--data", place.data, "--model-type", "fc"});
    CHECK(content(place.out + "/model.safetensors") == model);
  }
}

TEST_CASE("the best epochs are kept, and any checkpoint is gone on from") {
  const Place place;
  succeed(place.train({"--epochs", "6", "--keep-best", "2", "--lr", "0.3"}));  // a rate at which losses rise and fall
  const std::string model = content(place.out + "/model.safetensors");
  std::vector<std::string> best;
  for (const auto& name : vaelib::list_folder(place.out + "/checkpoints"))
    if (name.starts_with("best-")) best.push_back(place.out + "/checkpoints/" + name);
  REQUIRE(best.size() == 2);
  CHECK(exists(place.out + "/model_best.safetensors"));
  for (const auto& file : best) {
    std::filesystem::remove(place.out + "/model.safetensors");
    succeed({"train", "--resume", file, "--quiet"});  // the folder is known from the file
    CHECK(content(place.out + "/model.safetensors") == model);
  }
  const std::string best_model = content(place.out + "/model_best.safetensors");
  std::filesystem::remove(place.out + "/model_best.safetensors");  // as if it had been killed before the last file
  succeed({"train", "--resume", "--output-dir", place.out, "--quiet"});
  CHECK(content(place.out + "/model_best.safetensors") == best_model);
  succeed({"train", "--resume=auto", "--output-dir", place.out, "--quiet"});
  check_refusal(run({"train", "--resume", place / "none.safetensors", "--output-dir", place / "other"}), 1, "none.safetensors: cannot open");
  check_refusal(run({"train", "--resume", place.out + "/model.safetensors", "--output-dir", place.out}), 1, "is no checkpoint");
}

TEST_CASE("a run is ended by a figure of its posterior, which is written after each epoch") {
  const Place place;
  const Arguments flags{"--epochs", "9", "--monitor", "collapse_ratio", "--patience", "2", "--keep-best", "1", "--lr", "1e-12"};
  const auto rows = [&] {
    const auto all = content(place.out + "/collapse.csv");
    return std::count(all.begin(), all.end(), '\n');
  };
  succeed(place.train(flags));
  CHECK(rows() == 4);  // a header; the first epoch was the best, and two were no better
  CHECK(exists(place.out + "/model_best.safetensors"));
  CHECK(has(content(place.out + "/report.json"), "\"posterior\""));
  CHECK(has(content(place.out + "/report.json"), "\"kl_histogram\""));
  succeed({"train", "--resume", "--output-dir", place.out, "--quiet"});
  CHECK(rows() == 4);
  check_refusal(run({"train", "--monitor", "loss"}), 2, "--monitor: expected neg_elbo, collapse_ratio");
}

TEST_CASE("a batch in parts takes the same steps") {
  const Place place;
  const auto losses = [&](const Arguments& more) {
    succeed(place.train(more));
    std::vector<double> result;
    const Json last = Json::parse(content(place.out + "/metrics.jsonl").substr(content(place.out + "/metrics.jsonl").find('\n')));
    std::filesystem::remove_all(place.out);
    return last["train_loss"].get<double>();
  };
  const double whole = losses({});
  CHECK(losses({"--micro-batch", "7"}) == doctest::Approx(whole).epsilon(1e-5));
  CHECK(losses({"--ema", "0.9"}) == whole);
}

TEST_CASE("training in bfloat16 comes near to single precision, and goes on as it began") {
  const Place place;
  for (const char* type : {"fc", "conv"}) {
    const auto losses = [&](const Arguments& more) {
      Arguments flags = place.train({"--epochs", "3", "--model-type", type});
      flags.insert(flags.end(), more.begin(), more.end());
      std::filesystem::remove_all(place.out);
      succeed(flags);
      const std::string metrics = content(place.out + "/metrics.jsonl");
      const Json last = Json::parse(metrics.substr(metrics.rfind('\n', metrics.size() - 2) + 1));
      return std::pair(last["train_loss"].get<double>(), last["val_loss"].get<double>());
    };
    const auto single = losses({}), rounded = losses({"--precision", "bfloat16"});
    CHECK(rounded != single);
    CHECK(rounded.first == doctest::Approx(single.first).epsilon(0.005));  // operands are off by up to 1 / 256 each
    CHECK(rounded.second == doctest::Approx(single.second).epsilon(0.005));
    CHECK(place.config()["options"]["precision"] == "bfloat16");
    if (type == std::string("conv")) continue;

    const std::string model = content(place.out + "/model.safetensors");
    losses({"--precision", "bfloat16", "--epochs", "1", "--threads", "1"});
    const auto resumed = run({"train", "--output-dir", place.out, "--resume", "--epochs", "3"});
    REQUIRE_MESSAGE(resumed.code == 0, resumed.err);
    CHECK(has(resumed.out, ", products in bfloat16\n"));
    CHECK(content(place.out + "/model.safetensors") == model);
  }
  check_refusal(run(place.train({"--precision", "half"})), 2, "expected single or bfloat16, found 'half'");
}

TEST_CASE("beginning with a part of another model") {
  const Place place;
  succeed(place.train());
  const auto encoder = [](const std::string& path) {
    std::vector<float> values(8 * 784);
    vaelib::SafetensorsFile(path).read("encoder.1.weight", values);
    return values;
  };
  const auto result = run({"train", "--data", place.data, "--model-type", "fc", "--hidden-size", "8", "--code-size", "2", "--lr", "1e-12", "--epochs", "1", "--init-from",
                           place.out + "/model.safetensors", "--init-parts", "encoder.1.,decoder.", "--output-dir", place / "other"});
  REQUIRE_MESSAGE(result.code == 0, result.err);
  CHECK(has(result.out, "encoder.1.weight\n"));
  CHECK(has(result.out, "decoder.2.bias\n"));
  CHECK(!has(result.out, "encoder.3"));
  const auto before = encoder(place.out + "/model.safetensors"), after = encoder(place / "other/model.safetensors");
  for (std::size_t i = 0; i < before.size(); ++i) CHECK(after[i] == doctest::Approx(before[i]).epsilon(1e-6));
  check_refusal(run({"train", "--data", place.data, "--quiet", "--model-type", "fc", "--hidden-size", "9", "--init-from", place.out + "/model.safetensors", "--output-dir", place / "x"}), 1,
                "encoder.1.weight is [8,784], expected [9,784]");
  check_refusal(run(place.train({"--overwrite", "--init-from", place.out + "/model.safetensors", "--init-parts", "nothing."})), 1, "no tensors whose names begin with 'nothing.'");
}

TEST_CASE("data from files of all kinds") {
  const Place place;
  SUBCASE("photographs: colours, classes, and files that are none") {
    for (const char* kind : {"cats", "dogs"}) {
      vaelib::create_directories(place / "photos/" + kind);
      for (int i = 0; i < 12; ++i) vaelib::write_png(place / "photos/" + kind + "/" + std::to_string(i) + ".png", vaelib::blank_image(20 + i, 30, 3, std::uint8_t(i * 20)));
    }
    vaelib::write_file_atomically(place / "photos/dogs/broken.png", std::string("no picture"));
    Arguments flags = place.train({"--image-size", "16", "--conditional"}, place / "photos");
    flags.erase(std::find(flags.begin(), flags.end(), "--quiet"));
    const auto result = run(flags);
    REQUIRE_MESSAGE(result.code == 0, result.err);
    CHECK_MESSAGE(has(result.err, "left out: " + (place / "photos/dogs/broken.png")), result.err);
    const Json data = place.config()["data"];
    CHECK(data["image"] == Json({16, 16, 3}));
    CHECK(data["classes"] == Json({"cats", "dogs"}));
    CHECK(data["training_images"] == 22);
    CHECK(data["test_images"] == 2);
    CHECK(has(data["split"], "drawn by seed 0"));
    CHECK(vaelib::read_png(place.out + "/generated_samples.png").channels == 3);
    CHECK(vaelib::SafetensorsFile(place.out + "/model.safetensors").metadata().at("vae.split") == data["split"]);
    succeed({"reconstruct", place.out, "--count", "2"});
    std::filesystem::remove_all(place.out);
    Arguments grey = place.train({"--model-type", "conv", "--image-size", "8", "--channels", "1"}, place / "photos");
    succeed(grey);
    CHECK(place.config()["data"]["image"] == Json({8, 8, 1}));
    check_refusal(run(place.train({"--model-type", "conv", "--image-size", "50", "--overwrite"}, place / "photos")), 1, "whose sides are multiples of 4, from 48 on of 16, found 50 x 50 x 3");
  }
  SUBCASE("an array, its numbers brought to 0 ... 1") {
    std::vector<float> values(20 * 6 * 4);
    for (std::size_t i = 0; i < values.size(); ++i) values[i] = float(i % 9) - 3;
    vaelib::write_npy(place / "images.npy", {20, 6, 4}, values);
    succeed(place.train({}, place / "images.npy"));
    const Json normalisation = place.config()["data"]["normalisation"];
    CHECK(normalisation["offset"] == -3);
    CHECK(normalisation["scale"] == 0.125);
    CHECK(place.config()["data"]["training_images"] == 18);
    succeed({"evaluate", place.out, "--samples", "2"});
    values[100] = NAN;
    vaelib::write_npy(place / "images.npy", {20, 6, 4}, values);
    check_refusal(run(place.train({"--overwrite"}, place / "images.npy")), 1, "images.npy: value 4 of image 4 is nan");
    vaelib::write_npy(place / "table.npy", {20, 24}, values);
    check_refusal(run(place.train({"--overwrite"}, place / "table.npy")), 1, "is an array of shape [20,24], expected images x height x width");
  }
  SUBCASE("CIFAR-10's files") {
    for (const char* name : {"data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch"}) {
      vaelib::create_directories(place / "cifar");
      std::string bytes;
      for (int i = 0; i < 4; ++i) bytes += char(i) + std::string(3072, char(i * 40));
      vaelib::write_file_atomically(place / "cifar/" + name + ".bin", bytes);
    }
    succeed(place.train({"--model-type", "conv", "--epochs", "1"}, place / "cifar"));
    CHECK(place.config()["data"]["image"] == Json({32, 32, 3}));
    CHECK(place.config()["data"]["training_images"] == 20);
  }
  SUBCASE("what is none of them") {
    check_refusal(run(place.train({}, place / "nothing")), 2, "is neither a file or folder nor one of");
    check_refusal(run(place.train({"--data-dir", "x"})), 2, "is a path, so that --data-dir has no place");
    vaelib::create_directories(place / "empty");
    check_refusal(run(place.train({}, place / "empty")), 1, "has no file .png, .jpg or .jpeg");
    check_refusal(run({"train", "--data", "images"}), 2, "--data images needs --data-dir, the folder of its images");
  }
}

TEST_CASE("every likelihood trains") {
  const Place place;
  for (const char* name : {"continuous-bernoulli", "gaussian", "learned-gaussian", "optimal-gaussian", "laplace", "learned-laplace"}) {
    INFO(name);
    succeed(place.train({"--overwrite", "--likelihood", name, "--non-finite", "roll-back"}));
    succeed({"export", place.out});
    CHECK(has(content(place.out + "/decoder.onnx"), "Where") == (name == std::string("continuous-bernoulli")));  // its mean
  }
}

TEST_CASE("completion of commands and flags") {
  const auto bash = run({"completion", "bash"});
  REQUIRE(bash.code == 0);
  const TemporaryFolder folder;
  vaelib::write_file_atomically(folder / "complete.bash", bash.out + R"(
complete_words() { COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _vae; printf '%s ' "${COMPREPLY[@]}"; echo; }
complete_words vae tr
complete_words vae train --bat
complete_words vae sample --cou
)");
  const std::string output = folder / "output";
  REQUIRE(std::system(("bash '" + (folder / "complete.bash") + "' > '" + output + "'").c_str()) == 0);
  CHECK(content(output) == "train traverse \n--batch-size \n--count \n");
  CHECK(run({"completion", "zsh"}).out.starts_with("autoload -U +X bashcompinit"));
  CHECK(has(run({"completion", "fish"}).out, "complete -c vae -n '__fish_seen_subcommand_from train' -l batch-size\n"));
  check_refusal(run({"completion", "tcsh"}), 2, "expected bash, zsh or fish, found 'tcsh'");
  check_refusal(run({"completion"}), 2, "vae completion wants the name of a shell");
}
