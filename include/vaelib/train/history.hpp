// What a run measured, epoch by epoch, and its files: metrics.csv and metrics.jsonl. Both are written whole after every
// epoch, so that an interrupted and resumed run leaves no row twice.
#pragma once

#include <vaelib/io/file.hpp>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

namespace vaelib::inline VAELIB_ABI {

/// Nats a sample. `loss` is the objective with its beta (or capacity); recon + kl is the negative ELBO, never annealed.
struct EpochMetrics {
  std::int64_t epoch = 0, step = 0;  ///< epochs and steps done
  double train_loss = 0, train_recon = 0, train_kl = 0;
  double val_loss = 0, val_recon = 0, val_kl = 0;  ///< NaN without validation data
  double current_beta = 0, learning_rate = 0, seconds = 0;
  std::int64_t skipped = 0;  ///< steps whose numbers were not finite

  /// f(name, number) for every column.
  void columns(auto&& f) const {
    f("epoch", double(epoch)), f("step", double(step));
    f("train_loss", train_loss), f("train_recon", train_recon), f("train_kl", train_kl);
    f("val_loss", val_loss), f("val_recon", val_recon), f("val_kl", val_kl);
    f("current_beta", current_beta), f("learning_rate", learning_rate), f("skipped_steps", double(skipped)), f("seconds", seconds);
  }
};
using History = std::vector<EpochMetrics>;

namespace detail {
/// The fewest digits that read back as the same number; as the same float where it is one (0.001, not 0.00100000005).
[[gnu::cold]] inline std::string shortest(double number) {
  char buffer[40];
  const bool is_float = double(float(number)) == number;
  for (int digits = 6; digits <= 17; ++digits) {
    std::snprintf(buffer, sizeof buffer, "%.*g", digits, number);
    if (is_float ? std::strtof(buffer, nullptr) == float(number) : std::strtod(buffer, nullptr) == number) break;
  }
  return buffer;
}
}  // namespace detail

/// One header line, one line an epoch; an absent number is an empty field.
inline std::string csv_of(const History& history) {
  std::string out;
  EpochMetrics{}.columns([&](const char* name, double) { out += text(out.empty() ? "" : ",", name); });
  out += '\n';
  for (const auto& row : history) {
    bool first = true;
    row.columns([&](const char*, double number) {
      out += text(first ? "" : ",", number == number ? detail::shortest(number) : "");
      first = false;
    });
    out += '\n';
  }
  return out;
}
/// One JSON object a line; an absent number is null.
inline std::string json_lines_of(const History& history) {
  std::string out;
  for (const auto& row : history) {
    bool first = true;
    row.columns([&](const char* name, double number) {
      const bool finite = number - number == 0;
      out += text(first ? "{\"" : ", \"", name, "\": ", finite ? detail::shortest(number) : "null");
      first = false;
    });
    out += "}\n";
  }
  return out;
}

/// folder/metrics.csv and folder/metrics.jsonl; the folder is made where it is missing.
inline void write_metrics(const std::string& folder, const History& history) {
  create_directories(folder);
  write_file_atomically(folder + "/metrics.csv", csv_of(history));
  write_file_atomically(folder + "/metrics.jsonl", json_lines_of(history));
}

/// Where the metrics of a run are written after each epoch: `{.metrics = MetricFiles{"runs/a"}}`.
struct MetricFiles {
  std::string folder;

  // Not to be set: what writes them is compiled only into programs that make a MetricFiles.
  void (*write)(const std::string&, const History&) = write_metrics;
};

}  // namespace vaelib::inline VAELIB_ABI
