// Checkpoints of a run: enough to go on with the same bits from any step, in mid-epoch too.
//
//   checkpoint-<step>.safetensors   the newest and the one before
//   best-<step>.safetensors         those after the best epochs, where Checkpoints::best asks for them
#pragma once

#include <vaelib/io/checkpoint.hpp>
#include <vaelib/train/run_state.hpp>

namespace vaelib::inline VAELIB_ABI {

struct Checkpoints;
namespace detail {
inline void save_run(const Checkpoints& to, const LearnerMemory& memory, const RunState& state);
inline bool load_run(const Checkpoints& from, const LearnerMemory& memory, RunState& state);
}  // namespace detail

/// Where and when a run is saved: `{.checkpoints = Checkpoints{.folder = "runs/a", .every = 1000, .resume = true}}`.
/// After each epoch it is saved in any case, and where a callback interrupts it.
struct Checkpoints {
  std::string folder;
  std::int64_t every = 0;    ///< steps between them; 0: after each epoch only
  double every_seconds = 0;  ///< the same by the clock; 0: never
  int best = 0;              ///< keep so many more: those after the epochs of the lowest validation -ELBO (else training loss)
  bool resume = false;       ///< go on from the newest valid one, if there is one
  std::string from{};        ///< with `resume`: from this file instead

  // Not to be set: what saves and loads is compiled only into programs that make a Checkpoints.
  void (*save)(const Checkpoints&, const LearnerMemory&, const RunState&) = detail::save_run;
  bool (*load)(const Checkpoints&, const LearnerMemory&, RunState&) = detail::load_run;
};

namespace detail {

inline constexpr int history_columns = 12;

/// f(name, part) for every part of a learner but the counts of its updates.
void for_each_part(const LearnerMemory& memory, auto&& f) {
  f(std::string("values"), memory.values);
  f(std::string("state"), memory.state);
  if (memory.average.count > 0) f(std::string("average"), memory.average);
  for (int phase = 0; phase < memory.phases; ++phase)
    for (int k = 0; k < memory.moments_of_phase; ++k)
      f(text("moments.", phase, '.', k), memory.moments[phase * memory.moments_of_phase + k]);
}

inline void check_folder(const std::string& folder) {
  if (folder.empty()) fail("vaelib: Checkpoints::folder is empty; it says where checkpoints are kept");
}

/// What a resumed run must have in common with the one it goes on from.
inline std::string fingerprint(const LearnerMemory& memory, const RunState& state) {
  std::string tensors;
  long numbers = 0;
  for (const auto& [name, p] : *memory.parameters) {
    tensors += text(name, ' ', p.size(), ' ');
    numbers += p.size();
  }
  char checksum[16];
  std::snprintf(checksum, sizeof checksum, "%08lx", static_cast<unsigned long>(crc32_of(0, tensors.data(), tensors.size())));
  return text("seed ", memory.seed, ", batch size ", state.batch_size, ", data of ", state.rows, " rows of ", text_of(state.shape), ", ",
              memory.parameters->size(), " tensors of ", numbers, " numbers (", checksum, ")");
}

/// The steps after the `count` best epochs; of equals the earlier.
inline std::vector<std::uint64_t> best_steps(const History& history, int count) {
  std::vector<std::pair<double, std::uint64_t>> epochs;
  for (const auto& row : history) {
    const double validation = row.val_recon + row.val_kl;
    epochs.push_back({validation == validation ? validation : row.train_loss, std::uint64_t(row.step)});
  }
  std::sort(epochs.begin(), epochs.end());
  epochs.resize(std::min(epochs.size(), std::size_t(count)));
  std::vector<std::uint64_t> steps;
  for (const auto& [loss, step] : epochs) steps.push_back(step);
  return steps;
}

inline void save_run(const Checkpoints& to, const LearnerMemory& memory, const RunState& state) {
  check_folder(to.folder);
  std::vector<SafetensorsView> tensors;
  for_each_part(memory, [&](const std::string& name, const LearnerMemory::Part& part) {
    tensors.push_back({name, memory.dtype, {part.count}, part.data});
  });
  const std::array<std::int64_t, 3> place{state.epoch, state.batch, state.skipped};
  const std::array<double, 4> sums{state.samples, state.sums[0], state.sums[1], state.sums[2]};
  std::vector<double> history;
  for (const auto& row : state.history) row.columns([&](const char*, double number) { history.push_back(number); });
  tensors.push_back(SafetensorsView::of("run.place", {3}, place));
  tensors.push_back(SafetensorsView::of("run.sums", {4}, sums));
  const std::array<double, 2> refining{double(state.refining), state.information};
  if (!state.refining || std::isfinite(state.information)) tensors.push_back(SafetensorsView::of("run.refining", {2}, refining));
  tensors.push_back({"run.updates", Dtype::i64, {memory.phases}, memory.updates});
  tensors.push_back(SafetensorsView::of("run.history", {std::int64_t(state.history.size()), history_columns}, history));
  const Metadata metadata{{"vaelib.run", fingerprint(memory, state)}};
  if (to.best > 0 && state.batch == 0) {
    const auto best = best_steps(state.history, to.best);
    const CheckpointStore store(to.folder, "best");
    if (std::find(best.begin(), best.end(), state.steps) != best.end()) store.write(state.steps, tensors, metadata);
    store.remove_all_but(best);
  }
  CheckpointStore(to.folder).save(state.steps, std::move(tensors), metadata);
}

/// Takes the file that was asked for, or the newest valid checkpoint, if there is one. Throws where it belongs to another run.
inline bool load_run(const Checkpoints& from, const LearnerMemory& memory, RunState& state) {
  std::vector<std::string> skipped;
  std::optional<Checkpoint> checkpoint;
  if (!from.from.empty()) {
    checkpoint = load_checkpoint(from.from);
  } else {
    check_folder(from.folder);
    checkpoint = CheckpointStore(from.folder).newest_valid(&skipped);
  }
  for (const auto& reason : skipped) std::fprintf(stderr, "skipped a checkpoint: %s\n", reason.c_str());
  if (!checkpoint) return false;
  const SafetensorsFile& file = checkpoint->file;
  const auto found = checkpoint->metadata.find("vaelib.run");
  const std::string before = found == checkpoint->metadata.end() ? "no training run" : found->second;
  const std::string now = fingerprint(memory, state);
  if (before != now) fail(file.input().path(), ": this checkpoint is of another run: ", before, "; this run has ", now);
  std::array<std::int64_t, 3> place;
  std::array<double, 4> sums;
  file.read_exactly("run.place", std::span<std::int64_t>(place));
  file.read_exactly("run.sums", std::span<double>(sums));
  if (file.find("run.refining")) {
    std::array<double, 2> refining;
    file.read_exactly("run.refining", std::span<double>(refining));
    state.refining = refining[0] != 0;
    state.information = refining[1];
  }
  const TensorInfo* info = file.find("run.history");
  if (!info || info->shape.size() != 2 || info->shape[1] != history_columns)
    fail(file.input().path(), ": the history of the run is missing");
  std::vector<double> rows(info->shape[0] * history_columns);
  file.read_exactly("run.history", std::span(rows));
  file.read_exactly("run.updates", std::span(memory.updates, std::size_t(memory.phases)));
  for_each_part(memory, [&](const std::string& name, const LearnerMemory::Part& part) {
    file.read_raw(name, memory.dtype, std::size_t(part.count), part.data);
  });

  state.epoch = place[0];
  state.batch = place[1];
  state.skipped = place[2];
  state.samples = sums[0];
  state.sums = {sums[1], sums[2], sums[3]};
  state.history.clear();
  for (const double* r = rows.data(); r != rows.data() + rows.size(); r += history_columns)
    state.history.push_back({std::int64_t(r[0]), std::int64_t(r[1]), r[2], r[3], r[4], r[5], r[6], r[7], r[8], r[9], r[11], std::int64_t(r[10])});
  state.steps = state.saved = checkpoint->step;
  return true;
}

}  // namespace detail

}  // namespace vaelib::inline VAELIB_ABI
