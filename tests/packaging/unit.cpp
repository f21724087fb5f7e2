// Compiled twice, for the baseline and (NATIVE) for this processor: every header, and a training run on which both must agree.
#include <every_header.hpp>

#include <vector>

using namespace vaelib;

#ifdef NATIVE
std::vector<double> results_native() {
#else
std::vector<double> results_baseline() {
#endif
  constexpr Shape shape{6, 6, 1};
  using Model = Vae<Sequential<shape, Conv2d<4, 3, 1, 1>, GELU, Flatten, LayerNorm, Linear<8>, ReLU>, Gaussian<3>,
                    Sequential<Shape{3}, Linear<36>, Reshape<shape>>, Bernoulli>;
  Learner<Model, Adam, Cpu> learner(Model{}, Adam{}, Cpu(2), 1);
  std::vector<float> images(20 * shape.size());
  for (std::size_t i = 0; i < images.size(); ++i) images[i] = float(i * 7 % 31) / 31;
  for (int step = 0; step < 10; ++step) learner.learn({20, shape, images.data()}, {.beta = Cyclical{.period = 7}(step)});
  return {learner.weights.values.begin(), learner.weights.values.end()};
}
