// The report on a posterior, of a model that collapsed on purpose and of one that did not.
#include <doctest/doctest.h>

#include <vaelib/report/collapse.hpp>
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
