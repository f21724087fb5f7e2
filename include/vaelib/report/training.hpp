// The parts of a report that every trained model has: its losses, its machine, its time.
#pragma once

#include <vaelib/report/report.hpp>
#include <vaelib/train/history.hpp>

#include <algorithm>
#include <fstream>
#include <string>
#include <vector>

namespace vaelib::inline VAELIB_ABI {
namespace report {

/// -ELBO, objective and its two terms, learning rate and beta, over steps; and whether the run had ended by itself.
inline void add_training(Report& page, const History& history) {
  const auto series = [&](std::string name, auto number) {
    plot::Series result{std::move(name), {}, {}};
    for (const EpochMetrics& row : history) result.x.push_back(double(row.step)), result.y.push_back(number(row));
    return result;
  };
  const auto add = [&](const char* id, const char* title, const char* unit, std::vector<plot::Series> lines,
                       const char* caption) {
    page.figure(id, plot::Lines{title, unit, "step", std::move(lines)}, caption);
  };
  const auto pair = [&](double EpochMetrics::*train, double EpochMetrics::*test) {
    return std::vector{series("training", [=](const auto& row) { return row.*train; }),
                       series("test", [=](const auto& row) { return row.*test; })};
  };
  add("neg_elbo", "-ELBO", "nats a sample",
      {series("training", [](const auto& row) { return row.train_recon + row.train_kl; }),
       series("test", [](const auto& row) { return row.val_recon + row.val_kl; })},
      "Reconstruction plus KL divergence, never annealed: lower is better. A test line that rises while the training "
      "line falls is overfitting.");
  add("reconstruction_loss", "Reconstruction", "nats a sample",
      pair(&EpochMetrics::train_recon, &EpochMetrics::val_recon),
      "The negative log-likelihood of the data, given their codes.");
  add("kl_divergence", "KL divergence", "nats a sample", pair(&EpochMetrics::train_kl, &EpochMetrics::val_kl),
      "How much the codes tell of the data. Near zero, the decoder ignores them.");
  add("objective", "Objective", "nats a sample", pair(&EpochMetrics::train_loss, &EpochMetrics::val_loss),
      "What is minimised: the -ELBO with the weight beta of that step.");
  add("beta", "Beta", "", {series("beta", [](const auto& row) { return row.current_beta; })},
      "The weight of the KL divergence at the end of each epoch.");
  add("learning_rate", "Learning rate", "",
      {series("learning rate", [](const auto& row) { return row.learning_rate; })}, "At the end of each epoch.");

  if (history.size() < 2) return;
  const auto loss = [&](std::size_t i) { return history[i].val_recon + history[i].val_kl; };
  std::size_t best = 0;
  for (std::size_t i = 0; i < history.size(); ++i)
    if (loss(i) < loss(best)) best = i;
  const std::string words = text("The test -ELBO was ", shown_number(loss(0)), " nats after the first epoch and ",
                                 shown_number(loss(history.size() - 1)), " after the last; ");
  if (best + 1 == history.size())
    page.verdict(Mood::good, "Still learning.", words + "the last is the best, so more epochs may help.");
  else if (best + 3 >= history.size())
    page.verdict(Mood::good, "Learned.",
                 words + text("the best was ", shown_number(loss(best)), " after epoch ", history[best].epoch, "."));
  else
    page.verdict(Mood::fair, "Past its best.",
                 words + text("it has not become better than ", shown_number(loss(best)), " since epoch ",
                              history[best].epoch, "."));
}

/// The name of the processor as the system has it; empty where it says none.
inline std::string processor_name() {
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);)
    if (line.starts_with("model name") && line.find(": ") != std::string::npos) return line.substr(line.find(": ") + 2);
  return "";
}

inline std::string compiler_name() {
#if defined(__clang__)
  return "Clang " __clang_version__;
#else
  return "GCC " __VERSION__;
#endif
}

/// A table of the machine, and one of the time with the seconds of each epoch. `samples`: of an epoch. What depends on
/// the clock is here and nowhere else in a report.
inline void add_machine(Report& page, const History& history, std::int64_t samples, std::int64_t threads) {
  const std::string processor = processor_name();
  page.table("machine", "Machine",
             {{"processor", processor.empty() ? "unknown" : processor},
              {"threads", double(threads)},
              {"compiler", compiler_name()},
              {"vaelib", VAELIB_VERSION}});
  plot::Series seconds{"seconds", {}, {}};
  double total = 0;
  for (const EpochMetrics& row : history)
    seconds.x.push_back(double(row.epoch)), seconds.y.push_back(row.seconds), total += row.seconds;
  if (history.empty()) return;
  std::vector<double> sorted = seconds.y;
  std::nth_element(sorted.begin(), sorted.begin() + long(sorted.size() / 2), sorted.end());
  page.table("timings", "Time",
             {{"epochs", double(history.size())},
              {"an epoch (median)", sorted[sorted.size() / 2], "s"},
              {"all epochs", total, "s"},
              {"training samples", total > 0 ? double(samples) * double(history.size()) / total : NAN, "a second"}});
  page.figure("seconds_per_epoch", plot::Lines{"Time of each epoch", "s", "epoch", {seconds}},
              "Training and testing of each epoch. It rises where other programs use the machine.");
}

}  // namespace report
}  // namespace vaelib::inline VAELIB_ABI
