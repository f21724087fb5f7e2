// Containers of xtensor go in without a copy and come back as containers.
#include <vaelib/vae.hpp>
#include <vaelib/xtensor.hpp>

#include <doctest/doctest.h>

#if __has_include(<xtensor/views/xview.hpp>)
#include <xtensor/views/xview.hpp>
#else
#include <xtensor/xview.hpp>
#endif

using namespace vaelib;

namespace {
using Model = Vae<Sequential<Shape{4, 4, 1}, Flatten, Linear<8>, ReLU>, Gaussian<2>, Sequential<Shape{2}, Linear<16>, Reshape<Shape{4, 4, 1}>>, Bernoulli>;

xt::xtensor<float, 3> images() {
  xt::xtensor<float, 3> result({10, 4, 4});
  for (std::size_t i = 0; i < result.size(); ++i) result.data()[i] = float(i % 7) / 7;
  return result;
}
}  // namespace

TEST_CASE("a container trains a model and codes come back as a container") {
  const auto x = images();
  const auto rows = data::view(x);
  CHECK(rows.values().data() == x.data());  // looked at, not copied
  Trainer trainer(Model{}, Adam{}, Cpu(1));
  CHECK(trainer.fit(rows, {.epochs = 2, .batch_size = 4}).size() == 2);

  Session session(trainer.weights());
  const auto mu = to_xtensor(session.encode(span_of(x)), {10, 2});
  CHECK(mu.shape(0) == 10);
  CHECK(mu(3, 1) == session.encode(span_of(x))[7]);
  const auto weight = parameter_of<2>(trainer.weights(), "decoder.0.weight");
  CHECK(weight.shape(0) == 2);
  CHECK(weight.shape(1) == 16);
  CHECK_THROWS_AS(parameter_of<1>(trainer.weights(), "decoder.0.weight"), Error);
  CHECK_THROWS_AS(parameter_of<1>(trainer.weights(), "decoder.9.weight"), Error);
  CHECK_THROWS_AS(to_xtensor(session.encode(span_of(x)), {10, 3}), Error);
}

TEST_CASE("a contiguous view goes in, a strided one is refused with a sentence") {
  const auto x = images();
  const auto part = xt::view(x, xt::range(2, 6), xt::all(), xt::all());
  CHECK(span_of(part).data() == x.data() + 2 * 16);
  CHECK(data::view(part).size() == 4);
  const auto strided = xt::view(x, xt::all(), xt::all(), xt::range(0, 2));
  CHECK_THROWS_WITH_AS(span_of(strided), doctest::Contains("a strided view"), Error);
}
