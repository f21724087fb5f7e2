// Callbacks that look at the posterior after each epoch.
//
// CollapseMonitor writes collapse.csv and collapse.jsonl in a folder, and TensorBoard if it is given an EventFile. `examine`
// gives the evidence, as examine() of report/collapse.hpp does:
//
//   const auto look = [&] { return examine(trainer.weights(), test, 500); };
//   CollapseMonitor monitor{look, "runs/a"};
//   trainer.fit(train, {.callbacks = {monitor}});      monitor.rows.back().collapse_ratio
//
// Both files are written whole each time; a run that is gone on with reads those of the epochs before.
//
// CollapseWatch ends a run by one of its metrics, and tells of the best epochs:
//
//   CollapseWatch watch{monitor, "latent_utilization_ratio", 5, [&] { save("best.safetensors", trainer.weights()); }};
//   trainer.fit(train, {.callbacks = {monitor, watch}});
#pragma once

#include <vaelib/io/tensorboard.hpp>
#include <vaelib/report/collapse.hpp>
#include <vaelib/train/callbacks.hpp>

namespace vaelib::inline VAELIB_ABI {

/// What is written of an epoch; defined in metrics/posterior.hpp.
struct CollapseRow {
  double epoch = 0, step = 0, avg_kl = 0, avg_active_units = 0, collapse_ratio = 0, avg_mutual_info = 0, val_z_var = 0, effective_latent_dims = 0, latent_utilization_ratio = 0;

  void columns(auto&& f) const { each(*this, f); }
  static void each(auto& row, auto&& f) {
    f("epoch", row.epoch), f("step", row.step), f("avg_kl", row.avg_kl), f("avg_active_units", row.avg_active_units), f("collapse_ratio", row.collapse_ratio);
    f("avg_mutual_info", row.avg_mutual_info), f("val_z_var", row.val_z_var), f("effective_latent_dims", row.effective_latent_dims), f("latent_utilization_ratio", row.latent_utilization_ratio);
  }
};

/// The rows of a folder's collapse.csv; none where it cannot be read.
[[gnu::cold]] inline std::vector<CollapseRow> read_collapse_rows(const std::string& folder) {
  std::vector<CollapseRow> rows;
  try {
    const std::string all = read_file(folder + "/collapse.csv", 1 << 24);
    for (std::size_t begin = all.find('\n') + 1, end; begin > 0 && (end = all.find('\n', begin)) != std::string::npos; begin = end + 1) {
      const char* at = all.c_str() + begin;
      CollapseRow::each(rows.emplace_back(), [&](const char*, double& number) {
        char* behind = nullptr;
        number = std::strtod(at, &behind);
        if (behind == at) number = metrics::CollapseState::unknown;  // an empty field
        at = behind + (*behind == ',');
      });
    }
  } catch (const Error&) {
    rows.clear();
  }
  return rows;
}

namespace report {

/// A column of rows over steps.
[[gnu::cold]] inline plot::Series posterior_curve(const std::vector<CollapseRow>& rows, const std::string& column, const std::string& name) {
  plot::Series curve{name, {}, {}};
  for (const auto& row : rows)
    row.columns([&](const char* which, double number) {
      if (column == which) curve.x.push_back(row.step), curve.y.push_back(number);
    });
  return curve;
}

/// The posterior from epoch to epoch; nothing where it was not looked at.
[[gnu::cold]] inline void add_posterior(Report& page, const std::vector<CollapseRow>& rows) {
  if (rows.empty()) return;
  page.figure("posterior", plot::Lines{"Posterior", "share of the dimensions", "step", {posterior_curve(rows, "collapse_ratio", "collapse_ratio"), posterior_curve(rows, "latent_utilization_ratio", "latent_utilization_ratio")}},
              "After each epoch, of some test samples: dimensions that tell nothing, and dimensions that are active.");
}

}  // namespace report

template <class Examine>
class CollapseMonitor {
 public:
  std::vector<CollapseRow> rows;  ///< of all epochs

  /// An empty folder: nothing is written. What is passed by reference must outlive the monitor.
  CollapseMonitor(Examine examine, std::string folder, EventFile* events = nullptr, metrics::CollapseThresholds thresholds = {})
      : look(std::move(examine)), path(std::move(folder)), log(events), limits(thresholds) {}

  /// Takes over what an earlier process wrote, up to this epoch, unless that was done already.
  [[gnu::cold]] void go_on(std::int64_t epochs) {
    if (!rows.empty() || epochs < 1 || path.empty()) return;
    rows = read_collapse_rows(path);
    std::erase_if(rows, [&](const CollapseRow& row) { return row.epoch > double(epochs); });
  }

  void epoch_end(const RunState& state) {
    go_on(state.history.back().epoch - 1);
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
    if (!path.empty()) write();
  }

 private:
  [[gnu::cold]] void write() const {
    std::string csv, json;
    CollapseRow().columns([&](const char* name, double) { csv += text(csv.empty() ? "" : ",", name); });
    for (const auto& row : rows) {
      csv += '\n';
      row.columns([&](const char* name, double number) {
        const bool first = csv.back() == '\n', finite = number - number == 0;
        csv += text(first ? "" : ",", finite ? detail::shortest(number) : "");
        json += text(first ? "{\"" : ", \"", name, "\": ", finite ? detail::shortest(number) : "null");
      });
      json += "}\n";
    }
    create_directories(path);
    write_file_atomically(path + "/collapse.csv", csv, "\n");
    write_file_atomically(path + "/collapse.jsonl", json);
  }

  Examine look;
  std::string path;
  EventFile* log;
  metrics::CollapseThresholds limits;
};

/// Watches one column of collapse.csv: of collapse_ratio the smallest is the best, of val_z_var the nearest to 1, of all others the
/// largest. `best` is called after each epoch that is better than all before; `patience` 0: the run is not ended.
template <class Monitor, class Best = void (*)()>
class CollapseWatch {
 public:
  /// To be named after the monitor in FitOptions::callbacks.
  CollapseWatch(Monitor& of, std::string name, std::int64_t epochs = 0, Best best = [] {}) : monitor(of), metric(std::move(name)), patience(epochs), on_best(std::move(best)) {
    std::string known;
    bool found = false;
    CollapseRow().columns([&](const char* column, double) {
      if (std::string_view(column) == "epoch" || std::string_view(column) == "step") return;
      known += text(known.empty() ? "" : ", ", column);
      found = found || metric == column;
    });
    if (!found) fail("vaelib: no metric ", shown(metric), "; a CollapseMonitor has ", known);
  }

  void epoch_end(const RunState&) {
    if (waited() == 0) on_best();
  }
  bool should_stop(const RunState& state) {
    monitor.go_on(std::int64_t(state.history.size()));
    return patience > 0 && !monitor.rows.empty() && waited() >= patience;
  }

 private:
  /// Epochs since the best one; NaN is never better.
  std::int64_t waited() const {
    double best = std::numeric_limits<double>::infinity();
    std::int64_t since = 0;
    for (const auto& row : monitor.rows) {
      double score = best;
      row.columns([&](const char* column, double number) {
        if (metric == column) score = metric == "collapse_ratio" ? number : metric == "val_z_var" ? std::abs(number - 1) : -number;
      });
      since = score < best ? 0 : since + 1;
      if (score < best) best = score;
    }
    return since;
  }

  Monitor& monitor;
  std::string metric;
  std::int64_t patience;
  Best on_best;
};

}  // namespace vaelib::inline VAELIB_ABI
