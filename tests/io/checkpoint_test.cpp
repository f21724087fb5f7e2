#include <vaelib/io/checkpoint.hpp>

#include <cerrno>
#include <string>
#include <vector>

#include "faults.hpp"

using namespace vaelib;
using namespace io_test;

namespace {

/// A state whose every value tells its step.
struct State {
  std::vector<float> weights;
  std::vector<std::uint64_t> counters;
  std::vector<std::uint8_t> blob;
  std::vector<std::int64_t> order;

  explicit State(std::uint64_t step)
      : weights(50, static_cast<float>(step)),
        counters{step, ~step},
        blob(3, static_cast<std::uint8_t>(step)),
        order{-static_cast<std::int64_t>(step)} {}
  std::vector<SafetensorsView> views() const {
    return {SafetensorsView::of("weights", {5, 10}, weights), SafetensorsView::of("counters", {2}, counters),
            SafetensorsView::of("blob", {3}, blob), SafetensorsView::of("order", {}, order)};
  }
};

void save(const CheckpointStore& store, std::uint64_t step) {
  const State state(step);
  store.save(step, state.views(), {{"note", std::to_string(step)}});
}

/// The step of the newest valid checkpoint, all of whose content is that of its step; 0: there is none.
std::uint64_t newest(const CheckpointStore& store, std::vector<std::string>* skipped = nullptr) {
  const std::optional<Checkpoint> found = store.newest_valid(skipped);
  if (!found) return 0;
  State got(0), expected(found->step);
  found->file.read_exactly("weights", std::span(got.weights));
  found->file.read_exactly("counters", std::span(got.counters));
  found->file.read_exactly("blob", std::span(got.blob));
  found->file.read_exactly("order", std::span(got.order));
  CHECK(got.weights == expected.weights);
  CHECK(got.counters == expected.counters);
  CHECK(got.blob == expected.blob);
  CHECK(got.order == expected.order);
  CHECK(found->metadata == Metadata{{"note", std::to_string(found->step)}});
  return found->step;
}

bool has_temporary_files(const std::string& folder) {
  for (const std::string& name : list_folder(folder))
    if (contains(name, ".tmp.")) return true;
  return false;
}

}  // namespace

TEST_CASE("the newest checkpoint comes back, and two generations are kept") {
  const TemporaryFolder folder;
  const CheckpointStore store(folder / "run/checkpoints");
  CHECK_FALSE(store.newest_valid());
  for (const std::uint64_t step : {1, 20, 300}) save(store, step);
  CHECK(newest(store) == 300);
  CHECK(names_in(folder / "run/checkpoints") ==
        std::vector<std::string>{"checkpoint-000000000020.safetensors", "checkpoint-000000000300.safetensors"});
  save(store, 300);
  save(store, 5'000'000'000'000);
  CHECK(newest(store) == 5'000'000'000'000);
  CHECK(names_in(folder / "run/checkpoints") ==
        std::vector<std::string>{"checkpoint-000000000300.safetensors", "checkpoint-5000000000000.safetensors"});
  CHECK_NOTHROW(SafetensorsFile(store.path_of(300)));  // it is a safetensors file like any other
}

TEST_CASE("a save reads back what it wrote before the rename, and removes nothing before the new name is on the disk") {
  const TemporaryFolder folder;
  const CheckpointStore store(folder.path);
  const std::vector<float> weights(10);
  const auto save_weights = [&](std::uint64_t step) {
    store.save(step, {SafetensorsView::of("weights", {10}, weights)});
  };
  save_weights(1);
  save_weights(2);
  count_operations([&] { save_weights(3); });
  CHECK(fault.operations ==
        "stat open open write write write fsync close open stat read read read read read close "
        "rename open fsync close open unlink ");
}

TEST_CASE("a save replaces the future of a run that was taken up again earlier") {
  const TemporaryFolder folder;
  const CheckpointStore store(folder.path);
  save(store, 10);
  save(store, 20);
  write_raw(store.path_of(20), "damaged");
  CHECK(newest(store) == 10);
  save(store, 15);
  CHECK(newest(store) == 15);
  CHECK(names_in(folder.path).size() == 2);
  store.clear();
  CHECK(names_in(folder.path).empty());
}

TEST_CASE("only the store's own files are touched") {
  const TemporaryFolder folder;
  const CheckpointStore store(folder.path);
  const std::vector<std::string> foreign{"checkpoint-000000000001.safetensors.bak",
                                         "checkpoint-1.safetensors",
                                         "checkpoint-99999999999999999999999.safetensors",
                                         "checkpoint-best-000000000001.safetensors",
                                         "checkpoint-best-000000000001.safetensors.tmp.1.0",
                                         "checkpoint-latest.safetensors",
                                         "model.safetensors",
                                         "model.safetensors.tmp.1.0"};
  for (const std::string& name : foreign) write_raw(folder / name, "x");
  write_raw(folder / "checkpoint-000000000001.safetensors.tmp.1.0", "left by a process that was killed");
  for (const std::uint64_t step : {1, 2, 3}) save(store, step);
  CHECK(newest(store) == 3);
  store.clear();
  CHECK(names_in(folder.path) == foreign);
}

TEST_CASE("a kill at any operation of a save leaves the old checkpoint or the new one, whole") {
  for (const int generations : {0, 1, 2}) {
    int at = 0;
    for (bool killed = true; killed; ++at) {
      const TemporaryFolder folder;
      const CheckpointStore store(folder.path);
      for (int step = 1; step <= generations; ++step) save(store, static_cast<std::uint64_t>(step));
      killed = killed_at(at, [&] { save(store, 9); });
      CAPTURE(at);
      std::vector<std::string> skipped;
      const std::uint64_t found = newest(store, &skipped);
      CHECK((found == static_cast<std::uint64_t>(generations) || found == 9));
      CHECK(skipped.empty());
      if (!killed) CHECK(found == 9);
      save(store, 10);  // and the next save goes on as if nothing had been
      CHECK(newest(store) == 10);
      CHECK_FALSE(has_temporary_files(folder.path));
      CHECK(names_in(folder.path).size() == (generations > 0 || found == 9 ? 2 : 1));
    }
    CHECK(at > 20);
  }
}

TEST_CASE("whatever operation fails, the earlier checkpoint stays and no temporary file does") {
  for (const int reason : {EIO, ENOSPC}) {
    for (const bool always : {false, true}) {
      int at = 0;
      for (bool fired = true; fired; ++at) {
        const TemporaryFolder folder;
        const CheckpointStore store(folder.path);
        save(store, 1);
        save(store, 2);
        const bool thrown = throws_with_fault(
            reason, at, [&] { save(store, 9); }, always);
        fired = fault.fired;
        CAPTURE(at);
        CAPTURE(fault.fired_at);
        const std::uint64_t found = newest(store);
        CHECK((found == 2 || found == 9));
        if (fired && fault.fired_at != "close") CHECK(thrown);  // what was only read may fail to close
        if (!thrown) CHECK(found == 9);
        if (!always && fault.fired_at != "unlink") CHECK_FALSE(has_temporary_files(folder.path));
      }
      CHECK(at > 20);
    }
  }
}

TEST_CASE("short counts and interruptions are gone through") {
  const TemporaryFolder folder;
  const CheckpointStore store(folder.path);
  const auto work = [&] {
    save(store, 9);
    CHECK(newest(store) == 9);
  };
  const int operations = count_operations(work);
  CHECK_FALSE(throws_with_fault(short_count, 0, work, true));
  for (int at = 0; at < operations; ++at) CHECK_FALSE(throws_with_fault(EINTR, at, work));
}

TEST_CASE("any flipped bit, any truncation and any appended byte is found, and the one before is taken") {
  const TemporaryFolder folder;
  const CheckpointStore store(folder.path);
  save(store, 1);
  save(store, 2);
  const std::string path = store.path_of(2), whole = read_file(path, 1 << 20);
  std::size_t missed = 0, reasons = 0;
  const auto try_with = [&](const std::string& content) {
    write_raw(path, content);
    std::vector<std::string> skipped;
    const std::optional<Checkpoint> found = store.newest_valid(&skipped);
    missed += !found || found->step != 1;
    reasons += skipped.size() == 1 && contains(skipped[0], path);
  };
  for (std::size_t bit = 0; bit < whole.size() * 8; ++bit) {
    std::string damaged = whole;
    damaged[bit / 8] = static_cast<char>(damaged[bit / 8] ^ (1 << bit % 8));
    try_with(damaged);
  }
  for (std::size_t size = 0; size < whole.size(); ++size) try_with(whole.substr(0, size));
  try_with(whole + '\0');
  CHECK(missed == 0);
  CHECK(reasons == whole.size() * 9 + 1);
  write_raw(path, whole);
  CHECK(newest(store) == 2);
}

TEST_CASE("a checkpoint under another step's name is skipped, and so is a file without a checksum") {
  const TemporaryFolder folder;
  const CheckpointStore store(folder.path);
  save(store, 1);
  write_raw(store.path_of(5), read_file(store.path_of(1), 1 << 20));
  safetensors_write(store.path_of(6), State(6).views());
  std::vector<std::string> skipped;
  CHECK(newest(store, &skipped) == 1);
  REQUIRE(skipped.size() == 2);
  CHECK(contains(skipped[0], "its last tensor is not checkpoint.crc32"));
  CHECK(contains(skipped[1], "expected the checkpoint of step 5, found \"1\""));
}

TEST_CASE("an unreadable checkpoint is skipped with its reason") {
  const TemporaryFolder folder;
  const CheckpointStore store(folder.path);
  save(store, 1);
  REQUIRE(::mkdir(store.path_of(2).c_str(), 0700) == 0);
  std::vector<std::string> skipped;
  CHECK(newest(store, &skipped) == 1);
  REQUIRE(skipped.size() == 1);
  CHECK(contains(skipped[0], "is a folder"));
}

TEST_CASE("names that the checkpoint needs are refused, and a folder that cannot be made") {
  const TemporaryFolder folder;
  const CheckpointStore store(folder.path);
  const std::vector<float> x(1);
  CHECK(error_of([&] { store.save(1, {SafetensorsView::of("checkpoint.crc32", {1}, x)}); }) != "");
  CHECK(error_of([&] { store.save(1, {}, {{"checkpoint.step", "1"}}); }) != "");
  write_raw(folder / "file", "x");
  CHECK(contains(error_of([&] { CheckpointStore(folder / "file").save(1, {}); }), "a file of that name exists"));
  CHECK(names_in(folder.path) == std::vector<std::string>{"file"});
}
