// Ctrl-C as a callback: the first SIGINT or SIGTERM ends the run after the step that is being computed, and saves it where
// checkpoints are kept; a second one ends the process at once. Not part of vae.hpp.
//
//   StopOnSignal stop;
//   trainer.fit(images, {.checkpoints = Checkpoints{.folder = "runs/a", .resume = true}, .callbacks = {stop}});
//   if (stop.signal()) std::printf("interrupted; run again to go on\n");
#pragma once

#include <vaelib/train/run_state.hpp>

#include <csignal>

namespace vaelib::inline VAELIB_ABI {

namespace detail {
inline volatile std::sig_atomic_t received_signal = 0;
inline void receive_signal(int signal) {
  received_signal = signal;
  std::signal(signal, SIG_DFL);
}
}  // namespace detail

/// One at a time in a process. The handlers of before come back at its end.
class StopOnSignal {
 public:
  StopOnSignal() {
    detail::received_signal = 0;
    for (int i = 0; i < 2; ++i) before[i] = std::signal(signals[i], detail::receive_signal);
  }
  StopOnSignal(const StopOnSignal&) = delete;
  StopOnSignal& operator=(const StopOnSignal&) = delete;
  ~StopOnSignal() {
    for (int i = 0; i < 2; ++i) std::signal(signals[i], before[i]);
  }

  int signal() const { return detail::received_signal; }  ///< what came, or 0
  bool should_interrupt(const RunState&) const { return signal() != 0; }

 private:
  static constexpr int signals[2] = {SIGINT, SIGTERM};
  void (*before[2])(int) = {};
};

}  // namespace vaelib::inline VAELIB_ABI
