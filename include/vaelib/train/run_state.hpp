// What a run keeps besides the numbers of its learner: where it is, and what it measured.
#pragma once

#include <vaelib/io/dtype.hpp>
#include <vaelib/train/history.hpp>
#include <vaelib/train/weights.hpp>

#include <array>
#include <cstdint>
#include <limits>
#include <string>

namespace vaelib::inline VAELIB_ABI {

/// One training step, nats a sample.
struct StepResult {
  double objective = 0, reconstruction = 0, kl = 0, gradient_norm = 0;
  bool accepted = true;
};

struct RunState {
  std::int64_t batch_size = 0, rows = 0;  ///< rows of the data
  Shape shape{1};                         ///< of each
  std::int64_t epoch = 0, batch = 0;  ///< what comes next
  std::uint64_t steps = 0;            ///< taken
  double samples = 0;                 ///< seen in this epoch
  std::array<double, 3> sums{};       ///< over them: objective, reconstruction, kl
  std::int64_t skipped = 0;           ///< steps of this epoch that were not accepted
  bool refining = true;               ///< an AggressiveEncoder goes on
  double information = -std::numeric_limits<double>::infinity();  ///< that it measured last, nats
  History history{};
  StepResult last{};
  float plateau = 1;  ///< factor on the learning rate that follows from the history
  std::uint64_t saved = std::uint64_t(-1);  ///< the step of the last checkpoint

  std::int64_t step() const { return std::int64_t(steps); }
};

/// The numbers of a learner as plain memory, so that saving and loading them is compiled once for all models.
struct LearnerMemory {
  struct Part {
    void* data = nullptr;
    std::int64_t count = 0;
  };
  static constexpr int most_moments = 32;

  Dtype dtype{};  ///< of all parts but updates
  Part values, state, average;
  std::array<Part, most_moments> moments{};  ///< by phase and then by moment
  int phases = 0, moments_of_phase = 0;
  std::int64_t* updates = nullptr;  ///< by phase
  std::uint64_t seed = 0;
  const std::vector<Named<Parameter>>* parameters = nullptr;
};

}  // namespace vaelib::inline VAELIB_ABI
