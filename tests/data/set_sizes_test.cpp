// Sizes of sets: counted, written, read, drawn.
#include <doctest/doctest.h>

#include <vaelib/data/point_sets.hpp>
#include <vaelib/data/set_sizes.hpp>

using namespace vaelib;
using data::SetSizes;

TEST_CASE("sizes of sets are counted, kept as text, and drawn as often as they occur") {
  const data::PointClouds clouds(1, std::vector<float>(13), {0, 3, 5, 8, 8, 11, 13});
  const SetSizes sizes = SetSizes::of(clouds);
  CHECK(sizes.words() == "0x1 2x2 3x3");
  CHECK(SetSizes::parse("0x1 2x2 3x3").words() == "0x1 2x2 3x3");
  const auto drawn = sizes.draw(6000, 1);
  CHECK(drawn == SetSizes::parse(sizes.words()).draw(6000, 1));
  CHECK(drawn != sizes.draw(6000, 2));
  const auto share = [&](long size) { return double(std::count(drawn.begin(), drawn.end(), size)) / 6000; };
  CHECK(share(0) + share(2) + share(3) == doctest::Approx(1));
  CHECK(share(0) == doctest::Approx(1.0 / 6).epsilon(0.1));  // 7 standard errors
  CHECK(share(2) == doctest::Approx(2.0 / 6).epsilon(0.1));
  CHECK(SetSizes::parse("").parts().empty());
  CHECK_THROWS_WITH_AS(SetSizes().draw(1, 0), doctest::Contains("there are none"), Error);
  for (const char* wrong : {"5", "x1", "5x", "5x0", "-1x2", "5x1 5x1", "6x1 5x1", "5x1 ", "5x1,6x1", "5x65537", "5x1x", "99999999999999999999x1"})
    CHECK_THROWS_WITH_AS(SetSizes::parse(wrong), doctest::Contains("expected POINTSxSETS"), Error);
}
