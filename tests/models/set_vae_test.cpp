// SetVae: gradients, invariance to the order of points and to other sets, levels, and what is refused.
#include <doctest/doctest.h>

#include <vaelib/data/point_sets.hpp>
#include <vaelib/models/set_vae.hpp>
#include <vaelib/report/collapse_monitor.hpp>
#include <vaelib/report/set_collapse.hpp>
#include <vaelib/train/gradient_check.hpp>
#include <vaelib/vae.hpp>

#include "../io/faults.hpp"

using namespace vaelib;

namespace {

SetVaeOptions small(InitialSet initial = InitialSet::gaussian) {
  SetVaeOptions o;
  o.width = 8;
  o.heads = 2;
  o.latent = 2;
  o.inducing = {3, 2};
  o.initial = initial;
  o.weight = 50;
  return o;
}
using Floats = std::vector<float>;

/// The means of all levels of sets of points, set by set.
Floats means_of(const Weights<SetVae, Cpu>& weights, const Floats& points, const std::vector<long>& offsets) {
  Session<SetVae, Cpu> session(weights, Cpu(2));
  const long sets = long(offsets.size()) - 1;
  Floats means;
  session.run(sets, Shape{3}, points.data(), nullptr, 0, [&](auto& step, const SetVae& m, auto batch) {
    batch.offsets = offsets.data();
    const auto* kept = m.encode(step, points_of<SetVae::any>(step, batch));
    for (std::size_t l = 0; l < m.levels.size(); ++l) means.insert(means.end(), kept[l].value(), kept[l].value() + kept[l].size());
    return kept[0];
  });
  return means;
}

}  // namespace

TEST_CASE("SetVae: gradients of reconstruction and divergence, through every initial set and norm") {
  for (const InitialSet initial : {InitialSet::gaussian, InitialSet::mixture, InitialSet::fixed})
    for (const Norm norm : {Norm::post, Norm::pre}) {
      SetVaeOptions o = small(initial);
      o.norm = norm;
      const auto forward = [](auto& step, const SetVae& m, auto x) {
        static const long offsets[] = {0, 3, 3, 7};
        const auto points = detail::regroup(step, x, step.ragged(3, offsets));
        const auto* sets = step.rows(3);
        auto kl = step.template variable<SetVae::any>(sets, Shape{1}, false);
        std::fill_n(kl.value(), 3, 0);
        auto divergence = kl;
        const auto y = m.reconstruct(step, points, sets, [&](std::size_t, const auto& q, auto) {
          const auto own = sum_features(step, m.latent.kl(step, q));
          divergence = map(step, Add{}, divergence, decltype(kl){own.node, Shape{1}});
        });
        return map(step, Add{}, divergence, decltype(kl){chamfer(step, y, points, PerSet::sum, sets).node, Shape{1}});
      };
      const auto report = gradient_check<Shape{3}>(SetVae(o), forward, {.rows = 7, .single = 2e-5}, Shape{3});
      INFO(int(initial), " ", int(norm), ": ", report.summary());
      CHECK(report.passed());
    }
}

TEST_CASE("SetVae: a code does not depend on the order of the points, nor on other sets") {
  const Weights<SetVae, Cpu> weights(SetVae(small()), 3);
  Floats points(12 * 3);
  normal(RandomKey{4}, 0, 12, 3, points.data());
  const auto together = means_of(weights, points, {0, 5, 12});
  Floats turned = points;
  for (int d = 0; d < 3; ++d) std::swap(turned[std::size_t(d)], turned[std::size_t(4 * 3 + d)]);
  const auto reordered = means_of(weights, turned, {0, 5, 12});
  for (std::size_t k = 0; k < together.size(); ++k) CHECK(reordered[k] == doctest::Approx(together[k]).epsilon(1e-4));
  const auto alone = means_of(weights, {points.begin() + 15, points.end()}, {0, 7});
  const std::size_t first = 3 * 8, second = 2 * 8;  // numbers of a set's inducing rows, by level
  for (std::size_t k = 0; k < first; ++k) CHECK(alone[k] == together[first + k]);
  for (std::size_t k = 0; k < second; ++k) CHECK(alone[first + k] == together[2 * first + second + k]);
}

TEST_CASE("SetVae: learns solids; the same bits at 1, 2 and 4 threads; free bits by number, level and in total") {
  const data::PointSets sets{.sets = 48, .least = 0, .most = 20};
  const auto trained = [&](SetVaeOptions o, int threads, std::int64_t epochs = 2) {
    Trainer trainer{SetVae(o), Adam{.learning_rate = 3e-3f}, Cpu(threads)};
    const auto history = trainer.fit(sets, {.epochs = epochs, .batch_size = 16, .validation = sets});
    return std::pair{std::vector<float>(trainer.weights().values.begin(), trainer.weights().values.end()), history};
  };
  const auto [one, history] = trained(small(), 1, 12);
  CHECK(history.back().val_recon < 0.8 * history.front().val_recon);
  CHECK(trained(small(), 2).first == trained(small(), 4).first);
  SetVaeOptions normalised = small();
  normalised.spectral_norm = true;
  const auto [spectral, spectral_history] = trained(normalised, 2, 12);
  CHECK(trained(normalised, 1, 12).first == spectral);
  CHECK(spectral_history.back().val_recon < 0.8 * spectral_history.front().val_recon);
  for (const auto per : {LevelFreeBits::number, LevelFreeBits::level, LevelFreeBits::total}) {
    SetVaeOptions o = small();
    o.free_bits = 0.3f;
    o.per = per;
    o.level_weights = {1, 2};
    const auto m = trained(o, 1).second.back();
    const double least = per == LevelFreeBits::number ? 0.3 * (6 + 2 * 4) : per == LevelFreeBits::level ? 0.3 * 3 : 0.3;
    CHECK(m.train_loss >= m.train_recon + least * 0.999);
  }
}

TEST_CASE("SetVae: levels pay in proportion to their KL divergence while beta is small") {
  Floats points(12 * 3);
  normal(RandomKey{4}, 0, 12, 3, points.data());
  const std::vector<long> offsets{0, 5, 12};
  const auto step = [&](std::vector<float> weights, float below) {
    SetVaeOptions o = small();
    o.level_weights = weights;
    o.balance_below = below;
    return Learner<SetVae, Adam, Cpu>(SetVae(o), {}, Cpu(1), 3).learn({2, Shape{3}, points.data(), nullptr, 0, nullptr, offsets.data()}, {.beta = 0.5f});
  };
  const auto charged = [](const StepResult& r) { return (r.objective - r.reconstruction) / 0.5; };
  const auto plain = step({}, 0.5f);  // beta is not below 0.5
  CHECK(charged(plain) == doctest::Approx(plain.kl).epsilon(1e-3));
  const double near = charged(step({1, 0}, 0)), deep = charged(step({0, 1}, 0)), mean = (near + deep) / 2 + 0.01;
  CHECK(near + deep == doctest::Approx(plain.kl).epsilon(1e-3));
  CHECK(std::abs(near - deep) > 0.1 * mean);  // or there would be nothing to balance
  const double wanted = ((near + 0.01) * near + 2 * (deep + 0.01) * deep) / mean;
  CHECK(charged(step({1, 2}, 0.6f)) == doctest::Approx(wanted).epsilon(1e-3));
}

TEST_CASE("SetVae: the KL divergence of a level in parts") {
  Floats points(12 * 3);
  normal(RandomKey{4}, 0, 12, 3, points.data());
  const std::vector<long> offsets{0, 5, 12};
  const auto charged = [&](float information, float correlation, float single) {
    SetVaeOptions o = small();
    o.decompose = true;
    o.mutual_information = information, o.total_correlation = correlation, o.dimension_wise = single;
    o.dataset_size = 10;
    const auto r = Learner<SetVae, Adam, Cpu>(SetVae(o), {}, Cpu(1), 3).learn({2, Shape{3}, points.data(), nullptr, 0, nullptr, offsets.data()}, {.beta = 0.5f});
    return (r.objective - r.reconstruction) / 0.5;
  };
  const double information = charged(1, 0, 0), correlation = charged(0, 1, 0), single = charged(0, 0, 1);
  CHECK(charged(0, 0, 0) == doctest::Approx(0));
  CHECK(charged(1, 6, 2) == doctest::Approx(information + 6 * correlation + 2 * single).epsilon(1e-3));
  CHECK(information != doctest::Approx(0));
  CHECK(single != doctest::Approx(information + correlation + single));
  SetVaeOptions o = small();
  o.decompose = true;
  CHECK_THROWS_WITH_AS((Weights<SetVae, Cpu>(SetVae(o), 1)), "vaelib: SetVaeOptions::decompose wants dataset_size, the number of training sets", Error);
}

TEST_CASE("SetVae: its posterior is examined level by level, live and in the end") {
  const io_test::TemporaryFolder folder;
  const data::PointSets sets{.sets = 40, .least = 2, .most = 12, .fixed = true};
  Trainer trainer{SetVae(small()), Adam{}, Cpu(1)};
  const auto look = [&] { return examine(trainer.weights(), sets, 40); };
  CollapseMonitor monitor{look, folder.path};
  trainer.fit(sets, {.epochs = 2, .batch_size = 16, .callbacks = {monitor}});
  CHECK(monitor.rows.size() == 2);
  CHECK(read_file(folder / "collapse.csv", 10000).find("epoch,step,avg_kl,avg_active_units,collapse_ratio,avg_mutual_info,val_z_var,effective_latent_dims,latent_utilization_ratio\n1,3,") == 0);
  const auto again = read_file(folder / "collapse.jsonl", 10000);
  CHECK(std::count(again.begin(), again.end(), '\n') == 2);
  {  // a process that goes on keeps the lines before
    CollapseMonitor later{look, folder.path};
    RunState state;
    state.history.resize(1);
    state.history[0].epoch = 3;
    later.epoch_end(state);
    const auto all = read_file(folder / "collapse.csv", 10000);
    CHECK(std::count(all.begin(), all.end(), '\n') == 4);
  }
  const auto evidence = look();
  REQUIRE(evidence.levels.size() == 2);
  CHECK(evidence.levels[0].size == 6);
  CHECK(evidence.levels[1].means.size() == 40 * 4);
  CHECK(judge(evidence).levels[1].dimensions == 4);
}

TEST_CASE("SetVae: what cannot be is said") {
  const auto refused = [](const char* sentence, auto change) {
    SetVaeOptions o = small();
    change(o);
    SetVae model(o);
    CHECK_THROWS_WITH_AS(model.build(), doctest::Contains(sentence), Error);
  };
  refused("at least one level", [](SetVaeOptions& o) { o.inducing = {}; });
  refused("cannot have 3 heads of one width", [](SetVaeOptions& o) { o.heads = 3; });
  refused("level 2 of a SetVae has 0 inducing rows", [](SetVaeOptions& o) { o.inducing = {2, 0}; });
  refused("1 weights for 2 levels", [](SetVaeOptions& o) { o.level_weights = {1}; });
  Trainer trainer{SetVae(small()), Adam{}, Cpu(1)};
  const Floats rows(30);
  CHECK_THROWS_WITH_AS(trainer.fit(data::Rows(rows, Shape{3})), doctest::Contains("takes sets, the data has rows of one length"), Error);
  CHECK_THROWS_WITH_AS(trainer.fit(data::PointClouds(2, {1, 2}, {0, 1})), doctest::Contains("the model takes samples of shape"), Error);
  CHECK_THROWS_WITH_AS(trainer.fit(data::PointClouds(3, {1, NAN, 2}, {0, 0, 1})), doctest::Contains("row 1 of the data has the value nan at point 0, feature 1"), Error);
}
