// The program vae: what a run leaves, what it refuses and how, and that neither threads nor interruptions change it.
#include <doctest/doctest.h>

#include <algorithm>
#include <chrono>
#include <vaelib/io/png.hpp>
#include <vaelib/io/safetensors.hpp>

#include "program.hpp"

using namespace program;

namespace {

/// A folder with data, and the flags of a run that takes a moment.
struct Workplace {
  TemporaryFolder folder;
  std::string data = folder / "data", out = folder / "out";

  explicit Workplace(std::uint32_t train = 96, std::uint32_t test = 32) { write_images(data, train, test); }

  Arguments train(const Arguments& more = {}) const {
    Arguments all{"train", "--model-type", "fc", "--hidden-size", "8", "--code-size",
                  "2",     "--batch-size", "32", "--epochs",      "2", "--data",
                  "mnist", "--data-dir",   data, "--output-dir",  out};
    all.insert(all.end(), more.begin(), more.end());
    return all;
  }
  std::string model(const std::string& of = "out") const { return content(folder / of + "/model.safetensors"); }
};

}  // namespace

TEST_CASE("a run ends when it no longer becomes better") {
  const Workplace place;
  // a learning rate at which nothing moves: the first epoch is the best
  const Arguments flags{"--epochs", "9", "--patience", "2", "--lr", "1e-12"};
  const auto result = run(place.train(flags));
  REQUIRE_MESSAGE(result.code == 0, result.err);
  CHECK_MESSAGE(has(result.out, "ended after 3 epochs"), result.out);
  Arguments again = place.train(flags);
  again.push_back("--resume");
  CHECK(run(again).code == 0);
  CHECK(content(place.out + "/metrics.csv").find("\n4,") == std::string::npos);
}

TEST_CASE("a run leaves its files") {
  const Workplace place;
  const auto result = run(place.train());
  REQUIRE_MESSAGE(result.code == 0, result.err);
  CHECK(has(result.out, "fully connected"));
  CHECK(has(result.out, "mnist: 96 training and 32 test images of 28 x 28 x 1"));
  CHECK(has(result.out, "test -ELBO"));
  CHECK(has(result.out, place.out));
  for (const char* name : {"model.safetensors", "config.json", "metrics.csv", "metrics.jsonl", "training_losses.png",
                           "reconstructions.png", "generated_samples.png", "latent_space.png", "report.html", "report.json"}) {
    CHECK_MESSAGE(exists(place.out + '/' + name), name);
    CHECK(has(result.out, name));
  }
  const auto logs = vaelib::list_folder(place.out + "/logs");
  REQUIRE(logs.size() == 1);
  for (const char* tag : {"train_loss", "val_kl", "current_beta", "reconstructions", "generated_samples", "latent_mean"})
    CHECK_MESSAGE(has(content(place.out + "/logs/" + logs[0]), tag), tag);
  const vaelib::SafetensorsFile model(place.out + "/model.safetensors");
  CHECK(model.tensors().size() == 8);
  for (const auto& tensor : model.tensors())
    CHECK((tensor.name.starts_with("encoder.") || tensor.name.starts_with("decoder.")));
  for (const char* name :
       {"train_loss", "val_loss", "train_recon", "val_recon", "train_kl", "val_kl", "current_beta"}) {
    CHECK(has(content(place.out + "/metrics.csv"), name));
    CHECK(has(content(place.out + "/metrics.jsonl"), name));
  }
  const auto lines = content(place.out + "/metrics.jsonl");
  CHECK(std::count(lines.begin(), lines.end(), '\n') == 2);
  const auto config = content(place.out + "/config.json");
  for (const char* part : {"\"model_type\": \"fc\"", "\"code_size\": 2", "\"hidden_size\": 8", "\"lr\": 0.001",
                           "\"training_images\": 96", "\"version\": "})
    CHECK_MESSAGE(has(config, part), part);
  // 32 test images are 3 rows of 12, each above its reconstruction; tiles of 28 x 2 + 2 pixels
  const auto picture = vaelib::read_png(place.out + "/reconstructions.png");
  CHECK(picture.width == 12 * 58 + 2);
  CHECK(picture.height == 6 * 58 + 2);
  CHECK(vaelib::read_png(place.out + "/generated_samples.png").width == 10 * 58 + 2);
}

TEST_CASE("quiet runs say nothing, and only codes of two numbers are drawn") {
  const Workplace place;
  const auto result = run(place.train({"--quiet", "--code-size", "3"}));
  CHECK(result.code == 0);
  CHECK(result.out.empty());
  CHECK(result.err.empty());
  CHECK(!exists(place.out + "/latent_space.png"));
}

TEST_CASE("every model, likelihood and strategy trains") {
  const Workplace place(40, 10);
  for (const Arguments& more : {Arguments{"--model-type", "conv"},
                                {"--model-type", "conv", "--conditional"},
                                {"--conditional"},
                                {"--likelihood", "gaussian", "--clip-norm", "100"},
                                {"--likelihood", "learned-gaussian"},
                                {"--likelihood", "optimal-gaussian", "--free-bits", "0.1"},
                                {"--free-bits", "0.5", "--free-bits-per", "group", "--free-bits-group", "3", "--variance-weight", "0.1", "--mean-weight", "0.1"},
                                {"--tc-decomposition", "--tc-weight", "4"},
                                {"--target-kl", "0.2"},
                                {"--aggressive-encoder"},
                                {"--beta", "4", "--beta-warmup-steps", "3"},
                                {"--beta-strategy", "linear", "--min-beta", "0.1", "--beta-warmup-steps", "3"},
                                {"--beta-strategy", "sigmoid", "--max-beta", "2", "--non-finite", "skip"},
                                {"--beta-strategy", "cyclical", "--cycle-length", "2"}}) {
    Arguments arguments = place.train(more);
    arguments.push_back("--overwrite");
    const auto result = run(arguments);
    CHECK_MESSAGE(result.code == 0, more.back(), ": ", result.err);
    CHECK(!has(content(place.out + "/metrics.jsonl"), "null"));
  }
  // the last beta of the last one: steps 2 and 3 are those of the second cycle, half of which is the rise
  CHECK(has(content(place.out + "/metrics.jsonl"), "\"current_beta\": 1,"));
}

TEST_CASE("shapes need no files") {
  const TemporaryFolder folder;
  for (const char* model : {"fc", "conv"}) {
    const auto result = run({"train", "--data", "shapes", "--images", "16", "--epochs", "1", "--hidden-size", "8",
                             "--model-type", model, "--output-dir", folder / model});
    CHECK_MESSAGE(result.code == 0, result.err);
    CHECK(has(result.out, "shapes: 16 training and 16 test images of 64 x 64 x 1"));
  }
}

TEST_CASE("a wrong command line is one sentence and exit code 2") {
  const Workplace place;
  const std::vector<std::pair<Arguments, std::string>> cases{
      {{"--model-typ", "fc"}, "--model-typ is not known; did you mean --model-type?"},
      {{"--epoch=3"}, "--epoch is not known; did you mean --epochs?"},
      {{"--zzzzzzzz"}, "vae train --help lists the flags"},
      {{"fc"}, "fc was not expected"},
      {{"--model-type", "vgg"}, "--model-type: expected conv or fc, found 'vgg'"},
      {{"--likelihood", "poisson"}, "laplace or learned-laplace, found 'poisson'"},
      {{"--epochs", "0"}, "--epochs: expected a whole number from 1"},
      {{"--epochs", "2.5"}, "found '2.5'"},
      {{"--epochs", "-1"}, "--epochs"},
      {{"--epochs"}, "--epochs wants a value"},
      {{"--batch-size", "99999999999999999999"}, "--batch-size: expected a whole number"},
      {{"--lr", "nan"}, "--lr: expected a number from"},
      {{"--lr", "1e-3x"}, "--lr: expected a number from"},
      {{"--lr", "0"}, "--lr: expected a number from"},
      {{"--beta", "inf"}, "--beta: expected a number from 0"},
      {{"--device", "tpu"}, "--device: expected auto, cpu, cuda or mps"},
      {{"--resume", "--overwrite"}, "exclude each other"},
      {{"--beta-strategy", "linear", "--min-beta", "2"}, "--min-beta 2 is above --max-beta 1"},
      {{"--beta-strategy", "cyclical", "--cycle-length", "5", "--beta-warmup-steps", "6"},
       "longer than --cycle-length"},
  };
  for (const auto& [more, sentence] : cases) check_refusal(run(place.train(more)), 2, sentence);
  check_refusal(run({"trian"}), 2, "did you mean train?");
  check_refusal(run({"train", "--data", "mnist"}), 2, "--data mnist needs --data-dir");
  CHECK(!exists(place.out));
}

TEST_CASE("help and version") {
  const auto alone = run({}), asked = run({"--help"}), train = run({"train", "--help"});
  CHECK(alone.code == 0);
  CHECK(alone.out == asked.out);
  CHECK(has(alone.out, "train"));
  CHECK(train.code == 0);
  for (const char* part : {"--model-type conv|fc", "[50]", "[128]", "[0.001]", "[20]", "[400]", "Examples:", "STEPS"})
    CHECK_MESSAGE(has(train.out, part), part);
  CHECK(run({"--version"}).out.starts_with("vae "));
}

TEST_CASE("devices that are not there") {
  const Workplace place;
  check_refusal(run(place.train({"--device", "cuda"})), 1, "built without CUDA");
  check_refusal(run(place.train({"--device", "mps"})), 1, "--device mps: there is no backend for Apple's GPUs");
  CHECK(!exists(place.out));
  CHECK(run(place.train({"--device", "cpu"})).code == 0);
}

TEST_CASE("data that are not as they have to be") {
  const Workplace place;
  const std::string images = place.data + "/train-images-idx3-ubyte", labels = place.data + "/train-labels-idx1-ubyte";
  const std::string whole = content(images);
  const auto refused_with = [&](const std::string& bytes, const char* sentence) {
    vaelib::write_file_atomically(images, bytes);
    check_refusal(run(place.train()), 1, sentence);
  };
  refused_with(whole.substr(0, whole.size() / 2), "train-images-idx3-ubyte: the extents need 75264 bytes of values");
  refused_with(whole + "x", "the file has 75265");
  refused_with("", "is no IDX file");
  refused_with("GIF89a, something else", "is no IDX file");
  refused_with(std::string("\0\0\x08\x03\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", 16), "above 2^64");
}

TEST_CASE("data that are missing") {
  const Workplace place;
  check_refusal(run(place.train({"--data-dir", place.folder / "nowhere"})), 1, "no file train-images-idx3-ubyte");
  check_refusal(run(place.train({"--images", "97"})), 1, "--images 97 are wanted, there are 96");
  vaelib::write_idx(place.data + "/t10k-labels-idx1-ubyte", {3}, std::vector<std::uint8_t>{1, 2, 3});
  check_refusal(run(place.train()), 1, "3 labels for 32 images");
  CHECK(!exists(place.out));
}
