#include <doctest/doctest.h>

#include <numeric>
#include <set>
#include <vaelib/data/subset.hpp>

using namespace vaelib;

TEST_CASE("some rows of a data set") {
  std::vector<std::uint8_t> pixels(100 * 2);
  std::vector<std::int32_t> labels(100);
  for (int i = 0; i < 100; ++i) pixels[std::size_t(2 * i)] = std::uint8_t(i), labels[std::size_t(i)] = i % 7;
  const data::Dataset all({1, 1, 2}, pixels, labels, 7);
  std::vector<std::uint32_t> chosen;
  for (std::uint32_t i = 0; i < 90; ++i) chosen.push_back(99 - i);
  const data::Subset part(all, chosen);
  static_assert(data::Source<decltype(part)>);
  CHECK(part.size() == 90);
  CHECK(part.classes() == 7);
  CHECK(part.shape() == all.shape());
  std::vector<std::uint32_t> rows(90);
  std::iota(rows.begin(), rows.end(), 0u);
  std::vector<float> features(180);
  std::vector<std::int32_t> found(90);
  part.fill(0, rows, features.data(), found.data());
  for (int i = 0; i < 90; ++i) {
    CHECK(features[std::size_t(2 * i)] == float(99 - i) / 255);
    CHECK(found[std::size_t(i)] == (99 - i) % 7);
  }
  const std::vector<std::uint32_t> beyond{90};
  CHECK_THROWS_WITH_AS(part.fill(0, beyond, features.data(), nullptr), "data set: row 90 was asked for, there are 90", Error);
  CHECK_THROWS_WITH_AS(data::Subset(all, {100}), "data set: row 100 was asked for, there are 100", Error);
}

TEST_CASE("a share of the rows is for testing") {
  const auto split = data::split_rows(1000, 0.1, 5);
  CHECK(split.train.size() == 900);
  CHECK(split.test.size() == 100);
  std::set<std::uint32_t> all(split.train.begin(), split.train.end());
  all.insert(split.test.begin(), split.test.end());
  CHECK(all.size() == 1000);
  CHECK(*all.rbegin() == 999);
  double mean = 0;
  for (const auto row : split.test) mean += row / 100.0;
  CHECK(std::abs(mean - 500) < 100);  // from all over: 3.5 standard deviations
  CHECK(data::split_rows(1000, 0.1, 5).test == split.test);
  CHECK(data::split_rows(1000, 0.1, 6).test != split.test);
  CHECK(data::split_rows(2, 0.01, 0).test.size() == 1);
  CHECK(data::split_rows(2, 0.99, 0).train.size() == 1);
  CHECK_THROWS_WITH_AS(data::split_rows(1, 0.1, 0), doctest::Contains("1 rows cannot be parted"), Error);
  CHECK_THROWS_WITH_AS(data::split_rows(10, 1, 0), doctest::Contains("a test share of 1"), Error);
}
