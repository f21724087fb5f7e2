// A callback that writes the metrics of every epoch for TensorBoard. Not part of vae.hpp.
//
//   TensorBoardLog log("runs/a/logs");
//   trainer.fit(images.train, {.epochs = 10, .validation = images.test, .callbacks = {log}});      tensorboard --logdir runs/a/logs
#pragma once

#include <vaelib/io/tensorboard.hpp>
#include <vaelib/train/callbacks.hpp>

namespace vaelib::inline VAELIB_ABI {

struct TensorBoardLog {
  EventFile file;

  explicit TensorBoardLog(const std::string& folder) : file(folder) {}

  /// By the names of metrics.csv, over steps; a number that is absent is left out.
  void epoch_end(const RunState& state) {
    state.history.back().columns([&](const char* name, double number) {
      if (number == number && std::string_view(name) != "step") file.scalar(state.step(), name, number);
    });
  }
};

}  // namespace vaelib::inline VAELIB_ABI
