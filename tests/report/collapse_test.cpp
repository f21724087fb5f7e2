// The report on a posterior, of a model that collapsed on purpose and of one that did not.
#include <doctest/doctest.h>

#include <vaelib/report/collapse_monitor.hpp>
#include <vaelib/vae.hpp>

#include <fstream>

#include "../io/faults.hpp"

using namespace vaelib;
using io_test::TemporaryFolder;

namespace {

constexpr Shape image{8, 8, 1};
using Model = Vae<Sequential<image, Flatten, Linear<32>, ReLU>, Gaussian<4>, Sequential<Shape{4}, Linear<32>, ReLU, Linear<64>, Reshape<image>>, Bernoulli>;

std::string content_of(const std::string& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

}  // namespace

TEST_CASE("CollapseDiagnostics: a collapsed model is named so, one that uses its code is not") {
  const TemporaryFolder folder;
  const data::Shapes shapes{.image_size = 8, .images = 512};
  const auto trained = [&](float beta) {
    Trainer trainer{Model{}, Adam{.learning_rate = 3e-3f}, Cpu(1)};
    auto history = trainer.fit(shapes, {.epochs = 100, .batch_size = 64, .validation = shapes, .beta = beta});
    return CollapseDiagnostics{folder / std::to_string(int(beta * 100)), {}, 300}.report(trainer, shapes, history);
  };
  const auto dead = trained(100), alive = trained(0.05f);
  CHECK(dead.health == metrics::PosteriorHealth::collapsed);
  CHECK(dead.all.use.collapse_ratio == 1);
  CHECK(dead.advice.front().rule == "low_kl");
  CHECK(std::abs(dead.all.decoder_use) < 0.5);
  CHECK(alive.all.use.collapse_ratio == 0);
  CHECK(alive.all.use.latent_utilization_ratio == 1);
  CHECK(alive.health == metrics::PosteriorHealth::healthy);
  CHECK(alive.all.decoder_use > 1);
  CHECK(alive.all.parts.mutual_information.value > 1);
  CHECK(content_of(folder / "10000/report.html").find("The posterior has collapsed.") != std::string::npos);
  CHECK(content_of(folder / "5/report.html").find("The code is used.") != std::string::npos);
  const auto json = content_of(folder / "5/report.json");
  for (const char* name : {"\"kl_histogram\"", "\"correlation\"", "\"latent_map\"", "\"effective_dimensions\"", "\"avg_mutual_info\"", "\"val_z_var\"", "\"decoder_use\""})
    CHECK_MESSAGE(json.find(name) != std::string::npos, name);
  CHECK(read_png(folder / "5/kl.png").width > 100);
  CHECK(read_png(folder / "5/map.png").width > 100);
}

TEST_CASE("CollapseDiagnostics: levels of a hierarchy, and what cannot be judged") {
  const TemporaryFolder folder;
  CollapseEvidence e;
  for (const char* name : {"near", "top"}) {
    LatentLevel level{name, 3};
    level.means.resize(300);
    normal(RandomKey{1}, 0, 100, 3, level.means.data());
    level.log_variances.assign(300, name[0] == 't' ? 0.0f : -2.0f);
    level.kl.assign(300, name[0] == 't' ? 0.0f : 1.5f);
    if (name[0] == 't') level.means.assign(300, 0.0f);
    e.levels.push_back(level);
  }
  const auto s = CollapseDiagnostics{folder.path}.report(e);
  CHECK(s.levels[0].collapse_ratio == 0);
  CHECK(s.levels[1].collapse_ratio == 1);
  CHECK(s.all.use.collapse_ratio == 0.5);
  CHECK(s.all.parts.samples == 0);  // the prior is not N(0, 1)
  CHECK(content_of(folder / "report.json").find("\"level_1_kl_by_dimension\"") != std::string::npos);
  CHECK_THROWS_WITH_AS(CollapseDiagnostics{folder.path}.report(CollapseEvidence{}), doctest::Contains("a model without latents"), Error);
  e.levels[1].means.resize(150);
  CHECK_THROWS_AS(CollapseDiagnostics{folder.path}.report(e), Error);
  const Weights<Model, Cpu> weights{Model{}};
  CHECK_THROWS_WITH_AS(CollapseDiagnostics{folder.path}.report(weights, data::Shapes{.image_size = 8, .images = 1}), doctest::Contains("at least 2 samples"), Error);
  CHECK_THROWS_WITH_AS(CollapseDiagnostics{folder.path}.report(weights, data::Shapes{.image_size = 16, .images = 9}), doctest::Contains("takes shape"), Error);
}

TEST_CASE("CollapseMonitor and CollapseWatch: rows go on with those of an earlier process, the best epochs are told, the run ends") {
  const TemporaryFolder folder;
  // two dimensions; in epoch e the first e of them are used, none from epoch 3 on
  int epoch = 0;
  const auto look = [&] {
    CollapseEvidence e;
    e.levels.push_back({"z", 2});
    auto& level = e.levels[0];
    level.means.resize(200);
    normal(RandomKey{1}, 0, 100, 2, level.means.data());
    level.log_variances.assign(200, -3.0f);
    for (std::size_t k = 0; k < 200; ++k)
      if (epoch > 2 || int(k % 2) >= epoch) level.means[k] = level.log_variances[k] = 0;
    return e;
  };
  int best = 0;
  const auto told = [&] { ++best; };
  RunState state;
  const auto run = [&](auto& monitor, auto& watch, int until) {
    int done = 0;
    for (; epoch < until && !watch.should_stop(state); ++done) {
      ++epoch;
      EpochMetrics m;
      m.epoch = epoch;
      m.step = 10 * epoch;
      state.history.push_back(m);
      monitor.epoch_end(state);
      watch.epoch_end(state);
    }
    return done;
  };
  {
    CollapseMonitor monitor{look, folder.path};
    CollapseWatch watch{monitor, "collapse_ratio", 2, told};
    CHECK(run(monitor, watch, 3) == 3);
    CHECK(monitor.rows[1].collapse_ratio == 0);
    CHECK(best == 2);  // epochs 1 and 2
  }
  const std::string before = content_of(folder / "collapse.csv");
  CollapseMonitor monitor{look, folder.path};
  CollapseWatch watch{monitor, "collapse_ratio", 2, told};
  CHECK(run(monitor, watch, 9) == 1);  // epoch 4 is the second that is no better
  CHECK(best == 2);
  CHECK(monitor.rows.size() == 4);
  CHECK(content_of(folder / "collapse.csv").starts_with(before));
  CHECK(content_of(folder / "collapse.jsonl").find("\"latent_utilization_ratio\": 0.5") != std::string::npos);
  CollapseMonitor third{look, folder.path};
  CollapseWatch again{third, "latent_utilization_ratio", 2};
  CHECK(run(third, again, 9) == 0);  // ended before it began
  CHECK_THROWS_WITH_AS((CollapseWatch{third, "kl"}), doctest::Contains("no metric \"kl\"; a CollapseMonitor has avg_kl, avg_active_units"), Error);
}
