// Sets of points: what they show, and how a trainer is given them.
#include <doctest/doctest.h>

#include <vaelib/data/point_sets.hpp>
#include <vaelib/vae.hpp>

using namespace vaelib;

namespace {

std::vector<float> points_of(const data::PointSets& sets, std::uint32_t row, std::uint64_t epoch = 0) {
  std::vector<float> points(std::size_t(sets.content(epoch, row).points) * 3);
  sets.fill(epoch, std::span(&row, 1), points.data(), nullptr);
  return points;
}

/// -log N(mean over the points of each set; w, 1/2): learns the mean of all sets' centres.
struct Centre {
  Parameter place{{2}, constant(0)};
  void fields(auto&& f) { f("place", place); }
  Shape input_shape() const { return {2}; }
  template <class S, class B>
  auto loss(S& step, const B& batch) const {
    using Real = typename S::Real;
    const auto x = points_of<Shape{2}>(step, batch);
    const long* offsets = x.space()->offsets;
    Real* centres = step.arena.template allocate<Real>(2 * batch.count);
    for (long s = 0; s < batch.count; ++s)
      for (int d = 0; d < 2; ++d) {
        double sum = 0;
        for (long p = offsets[s]; p < offsets[s + 1]; ++p) sum += double(x.value()[2 * p + d]);
        centres[2 * s + d] = Real(sum / double(std::max(1L, offsets[s + 1] - offsets[s])));
      }
    const auto target = step.template constant<Shape{2}>(batch.space, 2, centres);
    const auto zero = map(step, Multiply{}, target, step.scalar(0));
    const auto guess = map(step, Add{}, zero, place);
    return mean_rows(step, map_reduce(step, SquaredDifference{}, guess, fixed(target)));
  }
};

}  // namespace

TEST_CASE("point sets: counts in range, points on their solids, all kinds, the same for a row and epoch") {
  const data::PointSets sets{.sets = 200, .least = 3, .most = 40, .seed = 5};
  std::array<int, 5> kinds{};
  int shortest = 1000, longest = 0;
  for (std::uint32_t row = 0; row < 200; ++row) {
    const auto c = sets.content(0, row);
    const auto points = points_of(sets, row);
    ++kinds[std::size_t(c.kind)];
    shortest = std::min(shortest, c.points);
    longest = std::max(longest, c.points);
    for (std::size_t p = 0; p < points.size(); p += 3) {
      const double r = std::sqrt(double(points[p] * points[p] + points[p + 1] * points[p + 1] + points[p + 2] * points[p + 2]));
      CHECK(r <= double(c.scale) * 1.0001);
      if (c.kind == data::Solid::sphere) CHECK(r == doctest::Approx(double(c.scale)).epsilon(1e-4));
    }
  }
  for (const int count : kinds) CHECK(count > 15);
  CHECK(shortest == 3);
  CHECK(longest == 40);
  CHECK(points_of(sets, 7, 1) == points_of(sets, 7, 1));
  CHECK(points_of(sets, 7, 1) != points_of(sets, 7, 2));
  auto fixed_sets = sets;
  fixed_sets.fixed = true;
  CHECK(points_of(fixed_sets, 7, 1) == points_of(fixed_sets, 7, 2));
  CHECK_THROWS_AS((data::PointSets{.least = 5, .most = 4}.shape()), Error);
  CHECK_THROWS_AS(sets.content(0, 200), Error);
}

TEST_CASE("point clouds: in memory, of padded arrays, of bright pixels") {
  const data::PointClouds clouds(2, {1, 2, 3, 4, 5, 6}, {0, 2, 2, 3}, {1, 0, 1}, 2);
  CHECK(clouds.size() == 3);
  CHECK(clouds.set(1).empty());
  CHECK(clouds.set(2)[1] == 6);
  const std::uint32_t rows[] = {2, 0};
  long points[2];
  clouds.count(0, rows, points);
  CHECK(points[0] == 1);
  CHECK(points[1] == 2);
  float out[6];
  std::int32_t labels[2];
  clouds.fill(0, rows, out, labels);
  CHECK(out[0] == 5);
  CHECK(out[5] == 4);
  CHECK(labels[0] == 1);
  CHECK_THROWS_WITH_AS(data::PointClouds(2, {1, 2, 3}, {0, 1}), doctest::Contains("offsets have to rise from 0"), Error);
  CHECK_THROWS_AS(data::PointClouds(2, {1, 2}, {0, 1}, {2}, 2), Error);

  const std::vector<float> padded{1, 2, 9, 9, 3, 4, 5, 6};
  const std::vector<std::uint8_t> mask{1, 0, 1, 1};
  const auto of_padded = data::PointClouds::of_padded(padded, 2, 2, 2, mask);
  CHECK(of_padded.set(0).size() == 2);
  CHECK(of_padded.set(1).size() == 4);
  CHECK(of_padded.set(1)[0] == 3);

  const data::Shapes shapes{.image_size = 16, .images = 5};
  const auto bright = data::bright_pixels(shapes, 4);
  CHECK(bright.size() == 4);
  CHECK(bright.classes() == 3);
  CHECK(bright.set(0).size() > 10);
  for (const float v : bright.set(0)) CHECK(std::abs(v) < 1);
}

TEST_CASE("a trainer gives sets to a model: whole batches, parts of them, read ahead") {
  std::vector<float> points;
  std::vector<std::int64_t> offsets{0};
  for (int s = 0; s < 50; ++s) {
    for (int p = 0; p < s % 7; ++p) points.insert(points.end(), {float(s % 3), float(p)});
    offsets.push_back(std::int64_t(points.size() / 2));
  }
  const data::PointClouds clouds(2, points, offsets);
  const auto learned = [&](std::int64_t micro_batch, bool read_ahead) {
    Trainer trainer{Centre{}, Sgd{.learning_rate = 0.1f}, Cpu(1)};
    trainer.fit(clouds, {.epochs = 3, .batch_size = 16, .micro_batch = micro_batch, .validation = clouds, .read_ahead = read_ahead});
    return std::vector<float>(trainer.weights().values.begin(), trainer.weights().values.begin() + 2);
  };
  const auto whole = learned(0, false);
  CHECK(whole[0] > 0.3f);
  CHECK(learned(0, true) == whole);
  for (int d = 0; d < 2; ++d) CHECK(learned(5, false)[std::size_t(d)] == doctest::Approx(whole[std::size_t(d)]).epsilon(1e-5));
}
