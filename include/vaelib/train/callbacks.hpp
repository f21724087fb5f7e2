// What is told of a run while it goes on, and may end it.
//
// A callback is any object with one or more of these members; fit keeps its address, so it has to outlive the call:
//   void step_end(const RunState&)          after each step; state.last holds its losses
//   void epoch_end(const RunState&)         after each epoch; state.history.back() holds its metrics
//   bool should_stop(const RunState&)       asked before each epoch, at the beginning of a resumed run too
//   bool should_interrupt(const RunState&)  asked after each step; the run is saved and left in mid-epoch
// What it throws ends the run. What decides by state.history alone decides the same after an interruption.
#pragma once

#include <vaelib/core/error.hpp>
#include <vaelib/train/run_state.hpp>

#include <limits>
#include <memory>

namespace vaelib::inline VAELIB_ABI {

template <class T>
concept FitCallback = requires(T& object, const RunState& state) { object.step_end(state); } || requires(T& object, const RunState& state) {
  object.epoch_end(state);
} || requires(T& object, const RunState& state) {
  { object.should_stop(state) } -> std::same_as<bool>;
} || requires(T& object, const RunState& state) {
  { object.should_interrupt(state) } -> std::same_as<bool>;
};

/// Any callback, its type forgotten.
class Callback {
 public:
  template <FitCallback T>
  Callback(T& object) : object_(const_cast<void*>(static_cast<const void*>(std::addressof(object)))) {
    if constexpr (requires(const RunState& state) { object.step_end(state); })
      step_end_ = [](void* o, const RunState& state) { static_cast<T*>(o)->step_end(state); };
    if constexpr (requires(const RunState& state) { object.epoch_end(state); })
      epoch_end_ = [](void* o, const RunState& state) { static_cast<T*>(o)->epoch_end(state); };
    if constexpr (requires(const RunState& state) { object.should_stop(state); })
      should_stop_ = [](void* o, const RunState& state) { return static_cast<T*>(o)->should_stop(state); };
    if constexpr (requires(const RunState& state) { object.should_interrupt(state); })
      should_interrupt_ = [](void* o, const RunState& state) { return static_cast<T*>(o)->should_interrupt(state); };
  }

  void step_end(const RunState& state) const {
    if (step_end_) step_end_(object_, state);
  }
  void epoch_end(const RunState& state) const {
    if (epoch_end_) epoch_end_(object_, state);
  }
  bool should_stop(const RunState& state) const { return should_stop_ && should_stop_(object_, state); }
  bool should_interrupt(const RunState& state) const { return should_interrupt_ && should_interrupt_(object_, state); }

 private:
  void* object_;
  void (*step_end_)(void*, const RunState&) = nullptr;
  void (*epoch_end_)(void*, const RunState&) = nullptr;
  bool (*should_stop_)(void*, const RunState&) = nullptr;
  bool (*should_interrupt_)(void*, const RunState&) = nullptr;
};

/// Ends a run whose validation -ELBO (never annealed) has not become better for `patience` epochs, or has diverged.
struct EarlyStopping {
  std::int64_t patience = 10;
  double min_delta = 0;  ///< nats by which it must fall to count as better
  double diverged = std::numeric_limits<double>::infinity();  ///< nats above which the run ends at once

  bool should_stop(const RunState& state) const {
    double best = std::numeric_limits<double>::infinity();
    std::int64_t waited = 0;
    for (const EpochMetrics& epoch : state.history) {
      const double loss = epoch.val_recon + epoch.val_kl;
      if (loss != loss) fail("vaelib: EarlyStopping watches the validation loss; give FitOptions::validation");
      if (loss > diverged) return true;
      const bool better = loss < best - min_delta;
      waited = better ? 0 : waited + 1;
      if (better) best = loss;
    }
    return waited >= patience && !state.history.empty();
  }
};

}  // namespace vaelib::inline VAELIB_ABI
