// What a run measured, read from its metrics.jsonl.
#pragma once

#include <cmath>
#include <nlohmann/json.hpp>
#include <vaelib/train/history.hpp>

namespace program {

/// Throws vaelib::Error where the folder holds no metrics.
inline vaelib::History read_history(const std::string& folder) {
  const std::string path = folder + "/metrics.jsonl";
  struct stat status {};
  if (::stat(path.c_str(), &status) != 0) vaelib::fail(folder, ": is a run without metrics: it holds no metrics.jsonl, which is written after each epoch");
  const std::string lines = vaelib::read_file(path, std::uint64_t{1} << 30);
  vaelib::History history;
  for (std::size_t begin = 0; begin < lines.size();) {
    const std::size_t end = std::min(lines.find('\n', begin), lines.size());
    const auto row = nlohmann::json::parse(lines.substr(begin, end - begin), nullptr, false);
    begin = end + 1;
    try {
      const auto number = [&](const char* name) { return row.at(name).is_null() ? double(NAN) : row.at(name).get<double>(); };
      const auto count = [&](const char* name) { return row.at(name).get<std::int64_t>(); };
      history.push_back({count("epoch"), count("step"), number("train_loss"), number("train_recon"), number("train_kl"), number("val_loss"), number("val_recon"), number("val_kl"), number("current_beta"),
                         number("learning_rate"), number("seconds"), count("skipped_steps")});
    } catch (const nlohmann::json::exception&) {
      vaelib::fail(path, ": line ", history.size() + 1, ": expected the metrics of an epoch as a JSON object");
    }
  }
  return history;
}

}  // namespace program
