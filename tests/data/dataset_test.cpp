// Data sets in memory and over the caller's floats, with and without xtensor.
#include <doctest/doctest.h>

#include <vaelib/data/batches.hpp>
#include <vaelib/data/dataset.hpp>

#include <algorithm>
#include <array>
#include <limits>
#include <numeric>
#include <string>
#include <vector>
#if __has_include(<xtensor/xtensor.hpp>)
#include <xtensor/xtensor.hpp>
#include <xtensor/xview.hpp>
#define HAS_XTENSOR 1
#elif __has_include(<xtensor/containers/xtensor.hpp>)
#include <xtensor/containers/xtensor.hpp>
#include <xtensor/views/xview.hpp>
#define HAS_XTENSOR 1
#endif

using namespace vaelib;

namespace {

static_assert(data::Source<data::Dataset>);
static_assert(data::Source<data::Rows>);

template <typename Action>
std::string sentence(Action action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

data::Dataset counting(int rows, Shape shape) {
  std::vector<std::uint8_t> pixels(static_cast<std::size_t>(rows * shape.size()));
  std::iota(pixels.begin(), pixels.end(), std::uint8_t{0});
  std::vector<std::int32_t> labels(static_cast<std::size_t>(rows));
  std::iota(labels.begin(), labels.end(), 0);
  return {shape, pixels, labels, rows};
}

}  // namespace

TEST_CASE("a byte is read as itself / 255, to the last bit") {
  const auto bytes = counting(1, {16, 16, 1});
  const std::uint32_t row = 0;
  const auto values = gather(bytes, std::span(&row, 1));
  for (int i = 0; i < 256; ++i) CHECK(values[static_cast<std::size_t>(i)] == static_cast<float>(i) / 255.0f);
}

TEST_CASE("fill gives the rows asked for, in that order, with their labels") {
  const auto set = counting(5, {2, 3, 2});
  CHECK(set.size() == 5);
  CHECK(set.shape() == Shape(2, 3, 2));
  const std::array<std::uint32_t, 3> rows{4, 0, 4};
  std::vector<float> features(3 * 12);
  std::array<std::int32_t, 3> labels{-1, -1, -1};
  set.fill(0, rows, features.data(), labels.data());
  CHECK(labels == std::array{4, 0, 4});
  CHECK(features[0] == 48.0f / 255.0f);
  CHECK(features[12 + 11] == 11.0f / 255.0f);
  CHECK(std::equal(features.begin(), features.begin() + 12, features.begin() + 24));
  set.fill(7, rows, features.data(), nullptr);  // neither labels nor the epoch are needed
  const std::array<std::uint32_t, 1> beyond{5};
  CHECK(sentence([&] { gather(set, beyond); }) == "data set: row 5 was asked for, there are 5");
}

TEST_CASE("a slice is the same rows; one outside is refused") {
  const auto set = counting(6, 4);
  const auto part = set.slice(2, 5);
  CHECK(part.size() == 3);
  CHECK(part.classes() == 6);
  CHECK(part.labels()[0] == 2);
  CHECK(part.pixels()[0] == 8);
  CHECK(set.slice(6, 6).size() == 0);
  CHECK_THROWS_AS(set.slice(3, 7), Error);
  CHECK_THROWS_AS(set.slice(-1, 2), Error);
  CHECK_THROWS_AS(set.slice(3, 2), Error);
}

TEST_CASE("sizes that do not fit are refused") {
  using Bytes = std::vector<std::uint8_t>;
  CHECK(contains(sentence([] {
                   data::Dataset({2, 2, 1}, Bytes(6));
                 }),
                 "6 values are no whole number of rows of 2 x 2 x 1"));
  CHECK(contains(sentence([] { data::Dataset({0, 2, 1}, Bytes(6)); }), "extents of at least 1"));
  CHECK(contains(sentence([] { data::Dataset({1 << 20, 1 << 20, 1 << 20}, Bytes(6)); }), "larger than 2^31"));
  CHECK(contains(sentence([] { data::Dataset({2, 1, 1}, Bytes(6), {0, 1}, 2); }), "2 labels for 3 rows"));
  CHECK(contains(sentence([] { data::Dataset({2, 1, 1}, Bytes(6), {}, 2); }), "0 labels for 3 rows"));
  CHECK(contains(sentence([] {
                   data::Dataset({2, 1, 1}, Bytes(6), {0, 1, 2}, 2);
                 }),
                 "row 2 has the label 2, expected 0 to 1"));
  CHECK(contains(sentence([] { data::Dataset({2, 1, 1}, Bytes(6), {0, -1, 1}, 2); }), "row 1 has the label -1"));
}

/// What a container of another library may look like.
struct Strided {
  std::vector<std::size_t> extents;
  std::vector<std::ptrdiff_t> steps;
  std::vector<float> values = std::vector<float>(64);

  const float* data() const { return values.data(); }
  std::size_t size() const {
    std::size_t product = 1;
    for (auto extent : extents) product *= extent;
    return product;
  }
  const std::vector<std::size_t>& shape() const { return extents; }
  const std::vector<std::ptrdiff_t>& strides() const { return steps; }
};

TEST_CASE("containers with strides are looked at where they are contiguous") {
  const Strided rows{{4, 3}, {3, 1}}, one_column{{4, 1}, {1, 0}}, gaps{{4, 3}, {5, 1}}, columns{{4, 3}, {1, 4}};
  CHECK(data::view(rows).values().data() == rows.values.data());
  CHECK(data::view(rows).shape() == Shape(3));
  CHECK(data::view(one_column).size() == 4);  // the stride of an extent of 1 does not matter
  CHECK(sentence([&] { data::view(gaps); }) ==
        "data set: a strided view (dimension 0 has the stride 5, contiguous rows have 3): copy it into a container "
        "first");
  CHECK(contains(sentence([&] { data::view(columns); }), "strided view (dimension 1 has the stride 4"));
  CHECK(contains(sentence([] { data::view(Strided{{8}, {1}}); }), "1 dimensions, expected 2"));
}

#ifdef HAS_XTENSOR
TEST_CASE("views of xtensor containers copy nothing and know their shape") {
  xt::xtensor<float, 2> flat({3, 4});
  std::iota(flat.begin(), flat.end(), 0.0f);
  const auto rows = data::view(flat);
  CHECK(rows.values().data() == flat.data());
  CHECK(rows.size() == 3);
  CHECK(rows.shape() == Shape(4));
  CHECK(data::view(xt::xtensor<float, 3>({5, 2, 3})).shape() == Shape(2, 3, 1));
  CHECK(data::view(xt::xtensor<float, 4>({5, 2, 3, 7})).shape() == Shape(2, 3, 7));
  CHECK_THROWS_AS(data::view(xt::xtensor<float, 1>({5})), Error);
  CHECK_THROWS_AS(data::view(xt::xtensor<float, 2>({0, 0})), Error);
  CHECK(data::view(xt::xtensor<float, 2>({0, 4})).size() == 0);

  const auto tail = xt::view(flat, xt::range(1, 3), xt::all());  // contiguous, but begins in mid-container
  const std::uint32_t first = 0;
  CHECK(gather(data::view(tail), std::span(&first, 1)) == std::vector<float>{4, 5, 6, 7});
}

TEST_CASE("strided views of xtensor are refused with a sentence") {
  xt::xtensor<float, 2> flat({4, 4});
  flat.fill(0.0f);
  CHECK(
      contains(sentence([&] { data::view(xt::view(flat, xt::all(), xt::range(0, 2))); }), "strided view (dimension 0"));
  CHECK(contains(sentence([&] { data::view(xt::view(flat, xt::range(0, 4, 2), xt::all())); }), "has the stride 8"));
  CHECK(contains(sentence([] {
                   data::view(xt::xtensor<float, 2, xt::layout_type::column_major>({4, 4}));
                 }),
                 "strided"));
  CHECK_NOTHROW(data::view(xt::xtensor<float, 3>({4, 1, 4})));  // xtensor's stride of an extent of 1 is 0
}

#endif

TEST_CASE("labels go with the caller's floats") {
  const std::vector<float> values{0, 1, 2, 3, 4, 5};
  const std::vector<std::int32_t> labels{2, 0, 1};
  const data::Rows rows(values, 2, labels, 3);
  const std::array<std::uint32_t, 2> wanted{2, 0};
  std::array<float, 4> features{};
  std::array<std::int32_t, 2> found{};
  rows.fill(0, wanted, features.data(), found.data());
  CHECK(features == std::array{4.0f, 5.0f, 0.0f, 1.0f});
  CHECK(found == std::array{1, 2});
  CHECK_THROWS_AS(data::Rows(values, 4), Error);
}

TEST_CASE("the range check names row, column and value") {
  std::vector<float> values(12, 0.5f);
  const auto check = [&] { data::check_range(data::Rows(values, 4), 0, 1); };
  CHECK_NOTHROW(check());
  values[7] = 1.5f;
  CHECK(sentence(check) == "data set: row 1, column 3 is 1.5, expected a value from 0 to 1");
  values[7] = 1, values[9] = -1e-9f;
  CHECK(contains(sentence(check), "row 2, column 1 is -1e-09"));
  values[0] = std::numeric_limits<float>::quiet_NaN();
  CHECK(contains(sentence(check), "row 0, column 0 is nan"));
}

TEST_CASE("an epoch holds every row once, the last batch what is left") {
  data::Batches batches(103, 10, true, 42);
  CHECK(batches.count() == 11);
  CHECK(batches[10].size() == 3);
  const auto all = [&](std::uint64_t epoch) {
    batches.start(epoch);
    std::vector<std::uint32_t> order;
    for (std::int64_t i = 0; i < batches.count(); ++i) order.insert(order.end(), batches[i].begin(), batches[i].end());
    return order;
  };
  const auto first = all(0), second = all(1);
  CHECK(first != second);
  CHECK(all(0) == first);  // an epoch's order does not depend on what came before
  auto sorted = first;
  std::sort(sorted.begin(), sorted.end());
  for (std::uint32_t i = 0; i < 103; ++i) CHECK(sorted[i] == i);
  CHECK(first != sorted);
  data::Batches other(103, 103, true, 43);
  CHECK(first != std::vector(other[0].begin(), other[0].end()));
}

TEST_CASE("without shuffling the order is that of the data set") {
  const data::Batches batches(5, 8);
  CHECK(batches.count() == 1);
  CHECK(std::vector(batches[0].begin(), batches[0].end()) == std::vector<std::uint32_t>{0, 1, 2, 3, 4});
  CHECK_THROWS_AS(batches[1], Error);
  CHECK_THROWS_AS(batches[-1], Error);
  CHECK_THROWS_AS(data::Batches(0, 8), Error);
  CHECK_THROWS_AS(data::Batches(5, 0), Error);
}
