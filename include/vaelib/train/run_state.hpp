// The state of a run, and its checkpoints: enough to go on with the same bits from any step, in mid-epoch too.
#pragma once

#include <vaelib/io/checkpoint.hpp>
#include <vaelib/train/history.hpp>
#include <vaelib/train/learner.hpp>

#include <zlib.h>

namespace vaelib::inline VAELIB_ABI {

struct RunState {
  std::int64_t epoch = 0, batch = 0;     ///< what comes next
  std::uint64_t steps = 0;               ///< taken
  double samples = 0;                    ///< seen in this epoch
  std::array<double, 3> sums{};          ///< over them: objective, reconstruction, kl
  std::int64_t skipped = 0;              ///< steps of this epoch that were not accepted
  History history;
  std::string fingerprint;               ///< of model, data and options
  StepResult last{};
  std::uint64_t saved = std::uint64_t(-1);  ///< the step of the last checkpoint

  std::int64_t step() const { return std::int64_t(steps); }
};

inline std::string crc32_text(const std::string& bytes) {
  char buffer[16];
  std::snprintf(buffer, sizeof buffer, "%08lx", ::crc32(0, reinterpret_cast<const Bytef*>(bytes.data()), uInt(bytes.size())));
  return buffer;
}

namespace detail {

template <class L, class F>
void for_each_buffer(L& learner, F&& f) {
  f("values", learner.weights.values);
  f("state", learner.weights.state);
  for (std::size_t phase = 0; phase < learner.moments.size(); ++phase)
    for (std::size_t k = 0; k < learner.moments[phase].size(); ++k) f(text("moments.", phase, '.', k), learner.moments[phase][k]);
}
inline constexpr int history_columns = 12;

}  // namespace detail

template <class L>
void save_run(const CheckpointStore& store, const L& learner, const RunState& state) {
  std::vector<SafetensorsView> tensors;
  detail::for_each_buffer(learner, [&](const std::string& name, const auto& buffer) {
    tensors.push_back(SafetensorsView::of(name, {buffer.size()}, buffer));
  });
  const std::array<std::int64_t, 3> place{state.epoch, state.batch, state.skipped};
  const std::array<double, 4> sums{state.samples, state.sums[0], state.sums[1], state.sums[2]};
  std::vector<double> history;
  for (const auto& row : state.history) row.columns([&](const char*, double number) { history.push_back(number); });
  tensors.push_back(SafetensorsView::of("run.place", {3}, place));
  tensors.push_back(SafetensorsView::of("run.sums", {4}, sums));
  tensors.push_back(SafetensorsView::of("run.updates", {std::int64_t(learner.updates.size())}, learner.updates));
  tensors.push_back(SafetensorsView::of("run.history", {std::int64_t(state.history.size()), detail::history_columns}, history));
  store.save(learner.steps, std::move(tensors), {{"vaelib.run", state.fingerprint}});
}

/// Takes the newest valid checkpoint, if there is one. Throws where it belongs to another run.
template <class L>
bool load_run(const CheckpointStore& store, L& learner, RunState& state) {
  std::vector<std::string> skipped;
  const auto checkpoint = store.newest_valid(&skipped);
  for (const auto& reason : skipped) std::fprintf(stderr, "skipped a checkpoint: %s\n", reason.c_str());
  if (!checkpoint) return false;
  const SafetensorsFile& file = checkpoint->file;
  const auto found = checkpoint->metadata.find("vaelib.run");
  const std::string before = found == checkpoint->metadata.end() ? "no training run" : found->second;
  if (before != state.fingerprint) fail(file.input().path(), ": this checkpoint is of another run: ", before, "; this run has ", state.fingerprint);
  std::array<std::int64_t, 3> place;
  std::array<double, 4> sums;
  file.read_exactly("run.place", std::span<std::int64_t>(place));
  file.read_exactly("run.sums", std::span<double>(sums));
  file.read_exactly("run.updates", std::span<std::int64_t>(learner.updates));
  const TensorInfo* info = file.find("run.history");
  if (!info || info->shape.size() != 2 || info->shape[1] != detail::history_columns) fail(file.input().path(), ": the history of the run is missing");
  std::vector<double> rows(info->shape[0] * detail::history_columns);
  file.read_exactly("run.history", std::span(rows));
  detail::for_each_buffer(learner, [&](const std::string& name, auto& buffer) { file.read_exactly(name, std::span(buffer.data(), std::size_t(buffer.size()))); });

  state.epoch = place[0];
  state.batch = place[1];
  state.skipped = place[2];
  state.samples = sums[0];
  state.sums = {sums[1], sums[2], sums[3]};
  state.history.clear();
  for (const double* r = rows.data(); r != rows.data() + rows.size(); r += detail::history_columns)
    state.history.push_back({std::int64_t(r[0]), std::int64_t(r[1]), r[2], r[3], r[4], r[5], r[6], r[7], r[8], r[9], r[11], std::int64_t(r[10])});
  learner.steps = state.steps = state.saved = checkpoint->step;
  return true;
}

}  // namespace vaelib::inline VAELIB_ABI
