// Runs of the program vae that are resumed, refused, interrupted or killed: the weights are those of an undisturbed
// run.
#include <doctest/doctest.h>

#include <algorithm>
#include <random>
#include <vaelib/io/checkpoint.hpp>

#include "program.hpp"

using namespace program;

namespace {

struct Runs {
  TemporaryFolder folder;
  std::string data = folder / "data";

  explicit Runs(std::uint32_t train = 96) { write_images(data, train, 32); }

  Arguments train(const std::string& out, const Arguments& more = {}) const {
    Arguments all{"train",       "--quiet", "--model-type", "fc",        "--hidden-size", "8",
                  "--code-size", "4",       "--batch-size", "32",        "--data",        "mnist",
                  "--data-dir",  data,      "--output-dir", folder / out};
    all.insert(all.end(), more.begin(), more.end());
    return all;
  }
  std::string model(const std::string& out) const { return content(folder / out + "/model.safetensors"); }
};

}  // namespace

TEST_CASE("equal runs, and other numbers of threads, give the same bytes") {
  const Runs runs;
  for (const Arguments& model :
       {Arguments{"--epochs", "2"}, {"--epochs", "1", "--model-type", "conv", "--conditional"}}) {
    std::vector<std::string> models;
    for (const char* threads : {"1", "1", "2", "3"}) {
      Arguments arguments = runs.train("same", model);
      arguments.insert(arguments.end(), {"--threads", threads, "--overwrite"});
      REQUIRE(run(arguments).code == 0);
      models.push_back(runs.model("same"));
    }
    CHECK(models[0] == models[1]);
    CHECK(models[0] == models[2]);
    CHECK(models[0] == models[3]);
  }
  REQUIRE(run(runs.train("other", {"--epochs", "2", "--seed", "1"})).code == 0);
  REQUIRE(run(runs.train("same", {"--epochs", "2", "--overwrite"})).code == 0);
  CHECK(runs.model("other") != runs.model("same"));
}

TEST_CASE("a folder that holds a run") {
  const Runs runs;
  REQUIRE(run(runs.train("a", {"--epochs", "1"})).code == 0);
  const auto before = runs.model("a"), metrics = content(runs.folder / "a/metrics.csv");

  check_refusal(run(runs.train("a", {"--epochs", "2"})), 1, "holds a run already; --resume goes on with it, --overwrite");
  const auto reached = run({"train", "--resume", "--output-dir", runs.folder / "a", "--epochs", "1"});
  CHECK(reached.code == 0);
  CHECK(reached.out.find("has reached its 1 epochs and is left as it is") != std::string::npos);
  CHECK(runs.model("a") == before);
  CHECK(content(runs.folder / "a/metrics.csv") == metrics);

  // what was lost of a finished run is written again
  vaelib::remove_file(runs.folder / "a/generated_samples.png");
  CHECK(run({"train", "--resume", "--quiet", "--output-dir", runs.folder / "a"}).code == 0);
  CHECK(exists(runs.folder / "a/generated_samples.png"));
  CHECK(runs.model("a") == before);

  REQUIRE(run(runs.train("a", {"--epochs", "1", "--seed", "5", "--overwrite"})).code == 0);
  CHECK(runs.model("a") != before);
  vaelib::write_file_atomically(runs.folder / "a/mine.txt", std::string("kept"));
  REQUIRE(run(runs.train("a", {"--epochs", "1", "--overwrite"})).code == 0);
  CHECK(runs.model("a") == before);
  CHECK(content(runs.folder / "a/mine.txt") == "kept");
}

TEST_CASE("a run that ended in its first epoch is in nobody's way") {
  const Runs runs;
  CHECK(run(runs.train("a", {"--lr", "1000", "--likelihood", "gaussian"})).code == 1);
  CHECK(exists(runs.folder / "a/config.json"));
  vaelib::write_file_atomically(runs.folder / "a/model.safetensors.tmp.1.0", std::string("half a"));
  CHECK(run(runs.train("a", {"--epochs", "1"})).code == 0);
  CHECK(!exists(runs.folder / "a/model.safetensors.tmp.1.0"));
}

TEST_CASE("a larger number of epochs goes on as if it had been meant from the beginning") {
  const Runs runs;
  REQUIRE(run(runs.train("whole", {"--epochs", "3", "--beta-strategy", "cyclical", "--cycle-length", "4"})).code == 0);
  REQUIRE(run(runs.train("parts", {"--epochs", "1", "--beta-strategy", "cyclical", "--cycle-length", "4", "--resume"}))
              .code == 0);
  REQUIRE(run({"train", "--quiet", "--resume", "--epochs", "3", "--output-dir", runs.folder / "parts"}).code == 0);
  CHECK(runs.model("whole") == runs.model("parts"));
}

TEST_CASE("resuming with something else") {
  const Runs runs;
  REQUIRE(run(runs.train("a", {"--epochs", "1"})).code == 0);
  const auto before = runs.model("a");
  const auto resumed_with = [&](const Arguments& more) {
    Arguments all{"train", "--resume", "--output-dir", runs.folder / "a", "--epochs", "2"};
    all.insert(all.end(), more.begin(), more.end());
    return run(all);
  };
  check_refusal(resumed_with({"--code-size", "5"}), 1, "cannot go on with --code-size 5: it was begun with 4");
  check_refusal(resumed_with({"--hidden-size", "9"}), 1, "--hidden-size 9: it was begun with 8");
  check_refusal(resumed_with({"--model-type", "conv"}), 1, "--model-type conv: it was begun with fc");
  check_refusal(resumed_with({"--data", "shapes"}), 1, "--data shapes: it was begun with mnist");
  check_refusal(resumed_with({"--conditional"}), 1, "--conditional true: it was begun with false");
  check_refusal(resumed_with({"--seed", "7"}), 1, "--seed 7: it was begun with 0");
  write_images(runs.folder / "fewer", 64, 32);
  check_refusal(resumed_with({"--data-dir", runs.folder / "fewer"}), 1, "of another run");

  const std::string config = runs.folder / "a/config.json", saved = content(config);
  vaelib::write_file_atomically(config, saved.substr(0, saved.size() / 2));
  check_refusal(resumed_with({}), 1, "config.json: is no JSON: parse error at line");
  auto wrong = saved;
  wrong.replace(wrong.find("\"hidden_size\": 8"), 16, "\"hidden_size\":-8");
  vaelib::write_file_atomically(config, wrong);
  check_refusal(resumed_with({}), 1, "config.json: hidden-size: expected a whole number");
  vaelib::write_file_atomically(config, saved);
  CHECK(runs.model("a") == before);
  CHECK(resumed_with({}).code == 0);

  vaelib::CheckpointStore(runs.folder / "a/checkpoints").clear();
  check_refusal(resumed_with({}), 1, "holds a model but no checkpoint to go on from");
}

TEST_CASE("folders that cannot be written") {
  const Runs runs;
  vaelib::write_file_atomically(runs.folder / "file", std::string("x"));
  check_refusal(run(runs.train("file/below")), 1, "cannot make this folder");
  check_refusal(run(runs.train("file")), 1, "cannot make this folder: a file of that name exists");
  check_refusal(run({"train", "--data", "shapes", "--images", "8", "--output-dir", "/proc/vae"}), 1, "/proc/vae");
  if (::geteuid() != 0) {  // root may write everywhere
    vaelib::create_directories(runs.folder / "closed");
    std::filesystem::permissions(runs.folder / "closed", std::filesystem::perms::owner_read);
    check_refusal(run(runs.train("closed/below")), 1, "ermission denied");
    std::filesystem::permissions(runs.folder / "closed", std::filesystem::perms::owner_all);
  }
}

TEST_CASE("a full disk leaves the last good checkpoint") {
  const Runs runs;
  const Arguments epochs{"--epochs", "3"};
  REQUIRE(run(runs.train("whole", epochs)).code == 0);
  REQUIRE(run(runs.train("full", {"--epochs", "1"})).code == 0);
  const auto before = runs.model("full");

  const Arguments resume = runs.train("full", {"--epochs", "3", "--resume"});
  check_refusal(run(resume, {.largest_file = 20'000}), 1, "cannot write: File too large");
  CHECK(runs.model("full") == before);
  REQUIRE(run(resume).code == 0);
  CHECK(runs.model("full") == runs.model("whole"));
}

TEST_CASE("numbers that are not finite stop the run") {
  const Runs runs;
  check_refusal(run(runs.train("a", {"--lr", "1000", "--likelihood", "gaussian", "--epochs", "50"})), 1, "step ");
}

// VAELIB_KILLS=50 kills more often.
TEST_CASE("killed at random moments and resumed") {
  const Runs runs(1600);
  const char* wanted = std::getenv("VAELIB_KILLS");
  const int kills = wanted ? std::atoi(wanted) : 4;
  const auto arguments = [&](const std::string& out) {
    Arguments all = runs.train(out, {"--epochs", "4", "--checkpoint-every", "7", "--resume"});
    all.erase(std::find(all.begin(), all.end(), "--quiet"));
    return all;
  };
  REQUIRE(run(arguments("whole")).code == 0);
  std::minstd_rand random(1);
  int killed = 0, resumed = 0;
  for (int run_number = 0; killed < kills && run_number < 4 * kills; ++run_number) {
    const std::string out = "run" + std::to_string(run_number);
    for (int attempt = 0; attempt < 3; ++attempt) {
      const long step = 7 * (attempt * 8 + long(random() % 8));  // of 200; a checkpoint every 7
      const vaelib::CheckpointStore saved(runs.folder / out + "/checkpoints");
      const std::string sign = step > 0 ? saved.path_of(std::uint64_t(step)) : runs.folder / out;
      killed += run(arguments(out), {.killed_after = sign, .turns = long(random() % 1'000'000)}).code == -SIGKILL;
    }
    const auto last = run(arguments(out));
    REQUIRE_MESSAGE(last.code == 0, last.err);
    resumed += last.out.find("resumed   after step") != std::string::npos;
    for (const auto& entry : std::filesystem::recursive_directory_iterator(runs.folder / out))
      CHECK_MESSAGE(entry.path().string().find(".tmp.") == std::string::npos, entry.path().string());
    CHECK(runs.model(out) == runs.model("whole"));
    std::filesystem::remove_all(runs.folder / out);
  }
  CHECK(killed >= kills);
  CHECK(resumed > 0);
}
