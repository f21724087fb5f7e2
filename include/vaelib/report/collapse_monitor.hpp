// A callback that looks at the posterior after each epoch: collapse.csv and collapse.jsonl in a folder, and TensorBoard if it
// is given an EventFile. `examine` gives the evidence, as examine() of report/collapse.hpp does:
//
//   const auto look = [&] { return examine(trainer.weights(), test, 500); };
//   CollapseMonitor monitor{look, "runs/a"};
//   trainer.fit(train, {.callbacks = {monitor}});      monitor.rows.back().collapse_ratio
//
// Both files are written whole each time; those of a run that is gone on with keep the epochs before.
#pragma once

#include <vaelib/io/tensorboard.hpp>
#include <vaelib/report/collapse.hpp>
#include <vaelib/train/callbacks.hpp>

namespace vaelib::inline VAELIB_ABI {

/// What is written of an epoch; defined in metrics/posterior.hpp.
struct CollapseRow {
  double epoch = 0, step = 0, avg_kl = 0, avg_active_units = 0, collapse_ratio = 0, avg_mutual_info = 0, val_z_var = 0, effective_latent_dims = 0, latent_utilization_ratio = 0;

  void columns(auto&& f) const {
    f("epoch", epoch), f("step", step), f("avg_kl", avg_kl), f("avg_active_units", avg_active_units), f("collapse_ratio", collapse_ratio);
    f("avg_mutual_info", avg_mutual_info), f("val_z_var", val_z_var), f("effective_latent_dims", effective_latent_dims), f("latent_utilization_ratio", latent_utilization_ratio);
  }
};

template <class Examine>
class CollapseMonitor {
 public:
  std::vector<CollapseRow> rows;  ///< of the epochs of this process

  /// An empty folder: nothing is written. What is passed by reference must outlive the monitor.
  CollapseMonitor(Examine examine, std::string folder, EventFile* events = nullptr, metrics::CollapseThresholds thresholds = {})
      : look(std::move(examine)), path(std::move(folder)), log(events), limits(thresholds) {}

  void epoch_end(const RunState& state) {
    const auto found = judge(look(), limits);
    const auto& u = found.all.use;
    CollapseRow row;
    row.epoch = double(state.history.back().epoch);
    row.step = double(state.step());
    row.avg_kl = u.avg_kl;
    row.avg_active_units = u.avg_active_units;
    row.collapse_ratio = u.collapse_ratio;
    row.avg_mutual_info = found.all.parts.samples > 0 ? found.all.parts.mutual_information.value : metrics::CollapseState::unknown;
    row.val_z_var = u.val_z_var;
    row.effective_latent_dims = u.effective_latent_dims;
    row.latent_utilization_ratio = u.latent_utilization_ratio;
    rows.push_back(row);
    if (log)
      row.columns([&](const char* name, double number) {
        if (number == number && std::string_view(name) != "step" && std::string_view(name) != "epoch") log->scalar(state.step(), name, number);
      });
    if (!path.empty()) write(row);
  }

 private:
  struct Line {
    double epoch;
    std::string csv, json;
  };

  [[gnu::cold]] void write(const CollapseRow& row) {
    create_directories(path);
    if (lines.empty() && row.epoch > 1) read();
    std::erase_if(lines, [&](const Line& line) { return line.epoch >= row.epoch; });
    std::string csv, json, header;
    row.columns([&](const char* name, double number) {
      const std::string shown = number - number == 0 ? detail::shortest(number) : "";
      header += text(header.empty() ? "" : ",", name);
      csv += text(csv.empty() ? "" : ",", shown);
      json += text(json.empty() ? "{\"" : ", \"", name, "\": ", shown.empty() ? "null" : shown);
    });
    lines.push_back({row.epoch, csv, json + '}'});
    std::string all_csv = header + '\n', all_json;
    for (const Line& line : lines) {
      all_csv += line.csv + '\n';
      all_json += line.json + '\n';
    }
    write_file_atomically(path + "/collapse.csv", all_csv);
    write_file_atomically(path + "/collapse.jsonl", all_json);
  }
  /// The lines that an earlier process wrote; none where the files are missing or do not go together.
  [[gnu::cold]] void read() {
    try {
      const auto lines_of = [&](const char* name) {
        std::vector<std::string> result;
        const std::string all = read_file(path + name, 1 << 24);
        for (std::size_t begin = 0, end; (end = all.find('\n', begin)) != std::string::npos; begin = end + 1) result.push_back(all.substr(begin, end - begin));
        return result;
      };
      const auto csv = lines_of("/collapse.csv"), json = lines_of("/collapse.jsonl");
      for (std::size_t i = 1; i < csv.size() && csv.size() == json.size() + 1; ++i) lines.push_back({std::strtod(csv[i].c_str(), nullptr), csv[i], json[i - 1]});
    } catch (const Error&) {
      lines.clear();
    }
  }

  Examine look;
  std::string path;
  EventFile* log;
  metrics::CollapseThresholds limits;
  std::vector<Line> lines;
};

}  // namespace vaelib::inline VAELIB_ABI
