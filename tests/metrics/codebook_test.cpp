#include <doctest/doctest.h>

#include <vaelib/metrics/codebook.hpp>

using namespace vaelib;
using namespace vaelib::metrics;

namespace {

CodebookUse use_of(const std::vector<double>& counts) { return codebook_use<double>(counts); }

/// A codebook that nothing is to be said of: all codes used, not quite alike.
CodebookState healthy() {
  CodebookState s;
  s.epoch = use_of({40, 20, 20, 10, 10, 10, 5, 2});
  s.batch = s.moving = s.epoch;
  s.temperature = 3;
  s.decay = 0.99;
  return s;
}

std::vector<std::string> rules(const CodebookState& s) {
  std::vector<std::string> names;
  for (const auto& a : codebook_advice(s)) names.push_back(a.rule);
  return names;
}
bool advises(const CodebookState& s, const std::string& rule) {
  const auto names = rules(s);
  return std::find(names.begin(), names.end(), rule) != names.end();
}

}  // namespace

TEST_CASE("the use of a codebook is that of its counts") {
  const auto even = use_of({5, 5, 5, 5});
  CHECK(even.used == 4);
  CHECK(even.utilisation == 1);
  CHECK(even.entropy == doctest::Approx(std::log(4.0)));
  CHECK(even.normalised_entropy == doctest::Approx(1));
  CHECK(even.perplexity == doctest::Approx(4));
  const auto collapsed = use_of({0, 7, 0, 0, 0, 0, 0, 0});
  CHECK(collapsed.used == 1);
  CHECK(collapsed.utilisation == 0.125);
  CHECK(collapsed.normalised_entropy == 0);
  CHECK(collapsed.perplexity == 1);
  const auto half = use_of({3, 3, 0, 0});
  CHECK(half.normalised_entropy == doctest::Approx(0.5));
  CHECK(use_of({9}).normalised_entropy == 1);
  CHECK(use_of({0, 0}).perplexity == 1);  // nothing was counted
  CHECK_THROWS_WITH(use_of({}), "metrics: a codebook has at least one code, found none");
  CHECK_THROWS_WITH(use_of({1, -1}), "metrics: code 1 is counted -1, expected a number from 0 on");
  CHECK_THROWS_WITH(use_of({NAN}), "metrics: code 0 is counted nan, expected a number from 0 on");
}

TEST_CASE("the distance of a code is that to its nearest") {
  const std::vector<float> codes{0, 0, 3, 4, 0, 1, 0, 1};
  const auto d = nearest_code_distances(codes, 2);
  CHECK(d == std::vector<double>{1, std::sqrt(18.0), 0, 0});
  CHECK_THROWS_WITH(nearest_code_distances(codes, 3), "metrics: 8 numbers are no whole codes of 3");
}

TEST_CASE("each rule of advice holds where it should, and only there") {
  CHECK(rules(healthy()).empty());

  auto s = healthy();  // the averages remember what no batch uses any more
  s.batch = use_of({100, 0, 0, 0, 0, 0, 0, 0});
  CHECK(rules(s) == std::vector<std::string>{"disagreement"});
  CHECK(codebook_advice(s)[0].sentence ==
        "The moving averages have 100 % of the codes in use, a batch uses 12.5 % (1 of 8): the averages remember codes that nothing chooses any more; believe the batches.");
  s = healthy();  // two vectors cannot use more than two codes
  s.batch = use_of({1, 1, 0, 0, 0, 0, 0, 0});
  CHECK_FALSE(advises(s, "disagreement"));
  CHECK(rules(s) == std::vector<std::string>{"batch_size"});

  s = healthy();
  s.epoch = use_of({10, 10, 10, 0, 0, 0, 0, 0, 0});
  s.temperature = 2.5;
  CHECK(advises(s, "temperature"));
  CHECK(advises(s, "decay"));
  CHECK(advises(s, "diversity"));
  CHECK_FALSE(advises(s, "replacement"));
  CHECK_FALSE(advises(s, "fewer_codes"));
  s.temperature = 3;
  s.decay = 0.5;
  CHECK_FALSE(advises(s, "temperature"));
  CHECK_FALSE(advises(s, "decay"));
  s.replaces_dead_codes = false;
  CHECK(advises(s, "replacement"));
  s.temperature = NAN;  // no temperature at all
  CHECK(advises(s, "temperature"));

  std::vector<double> many(64);
  for (int k = 0; k < 20; ++k) many[std::size_t(k)] = 5;
  s.epoch = use_of(many);
  CHECK(advises(s, "fewer_codes"));

  s = healthy();
  s.epoch = use_of({8, 9, 8, 9, 8, 9, 8, 9});
  CHECK(rules(s) == std::vector<std::string>{"more_codes"});
}
