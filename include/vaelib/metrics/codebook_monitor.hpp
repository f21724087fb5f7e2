// A callback that keeps, for each epoch, how the codebooks of a model were used: by its batches, as a whole, and by their moving averages.
//
//   CodebookMonitor<float> monitor(trainer.weights());
//   trainer.fit(images.train, {.epochs = 10, .callbacks = {monitor}});      monitor.epochs.back().epoch.utilisation
//
// It reads the states that quantizers keep, "...batch_count" and "...count"; several codebooks count as one of all their codes.
#pragma once

#include <vaelib/metrics/codebook.hpp>
#include <vaelib/train/run_state.hpp>
#include <vaelib/train/weights.hpp>

namespace vaelib::inline VAELIB_ABI {

template <class Real>
class CodebookMonitor {
 public:
  struct Epoch {
    metrics::CodebookUse whole, moving;           ///< moving has no codes where none are kept
    double used_a_batch = 0, vectors_a_batch = 0; ///< means over the batches
    std::vector<double> counts{};                 ///< vectors a code
  };
  std::vector<Epoch> epochs;

  /// The weights must outlive the monitor.
  explicit CodebookMonitor(const WeightBuffers<Real>& w) : weights(&w) {}

  void step_end(const RunState& state) {
    if (!state.last.accepted) return;
    const auto batch = counts_of("batch_count");
    if (batch.empty()) return;
    counts.resize(batch.size());
    for (std::size_t k = 0; k < batch.size(); ++k) {
      counts[k] += batch[k];
      vectors += batch[k];
      used += batch[k] > 0;
    }
    ++batches;
  }
  void epoch_end(const RunState&) {
    if (batches == 0) return;
    Epoch e;
    e.whole = metrics::codebook_use<double>(counts);
    const auto moving = counts_of("count");
    if (!moving.empty()) e.moving = metrics::codebook_use<double>(moving, 0.01);
    e.used_a_batch = used / double(batches);
    e.vectors_a_batch = vectors / double(batches);
    e.counts = std::move(counts);
    epochs.push_back(std::move(e));
    counts.clear();
    vectors = used = 0;
    batches = 0;
  }

 private:
  /// Of all states of this name, one after another.
  std::vector<double> counts_of(std::string_view name) const {
    std::vector<double> all;
    for (const auto& [path, s] : weights->states) {
      const std::size_t dot = path.rfind('.');
      if (std::string_view(path).substr(dot == std::string::npos ? 0 : dot + 1) != name) continue;
      const Real* first = weights->state.data() + s.offset;
      all.insert(all.end(), first, first + s.count);
    }
    return all;
  }

  const WeightBuffers<Real>* weights;
  std::vector<double> counts;
  double vectors = 0, used = 0;
  std::int64_t batches = 0;
};

}  // namespace vaelib::inline VAELIB_ABI
