#include <doctest/doctest.h>

#include <vaelib/vae.hpp>

using namespace vaelib;

namespace {

/// Bright bars on the left or on the right.
std::vector<float> bars(Shape shape, int rows) {
  std::vector<float> x(std::size_t(rows) * shape.size(), 0.05f);
  for (int r = 0; r < rows; ++r)
    for (int k = 0; k < shape.size() / 2; ++k) x[std::size_t(r) * shape.size() + (r % 2 ? shape.size() / 2 : 0) + k] = 0.95f;
  return x;
}

void check_learns(auto model, Shape shape, long parameters) {
  const auto x = bars(shape, 64);
  Trainer trainer(model, Adam{.learning_rate = 3e-3f}, Cpu(1));
  CHECK(trainer.weights().count() == parameters);
  const auto history = trainer.fit(data::Rows(x, shape), {.epochs = 30, .batch_size = 16});
  CHECK(history.back().train_loss < 0.8 * history.front().train_loss);
}

}  // namespace

TEST_CASE("ready-made models learn") {
  check_learns(models::fc_vae({6, 5, 2}, 30, 4), {6, 5, 2}, 60 * 30 + 30 + 30 * 8 + 8 + 4 * 30 + 30 + 30 * 60 + 60);
  check_learns(models::fc_vae(24, 12, 3), 24, 24 * 12 + 12 + 12 * 6 + 6 + 3 * 12 + 12 + 12 * 24 + 24);
  check_learns(models::conv_vae<Shape{8, 12, 3}, 5>(), {8, 12, 3},
               16 * 3 * 32 + 32 + 16 * 32 * 64 + 64 + 384 * 256 + 256 + 256 * 10 + 10 + 5 * 256 + 256 + 256 * 384 + 384 +
                   16 * 64 * 32 + 32 + 16 * 32 * 3 + 3);
}
