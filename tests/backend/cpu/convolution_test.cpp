#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <vaelib/backend/cpu/convolution.hpp>
#include <vector>

#include "convolution_case.hpp"

using namespace vaelib;
using namespace vaelib::cpu;

namespace {

using Case = ConvolutionCase;
using Results = ConvolutionResults;

Results compute(Pool& pool, const Case& c, bool add = false, float before = 1e30f) {
  Results r(c, before);
  Workspace workspace;
  convolution(pool, workspace, c.s, c.images, c.x.data(), c.weight.data(), r.forward.data(), add);
  convolution_adjoint(pool, workspace, c.s, c.images, c.y.data(), c.weight.data(), r.adjoint.data(), add);
  convolution_weight_gradient(pool, workspace, c.s, c.images, c.x.data(), c.y.data(), r.gradient.data(), add);
  return r;
}

constexpr auto without_sum = [](Pool& pool, const Case& c) { return compute(pool, c); };

const ConvolutionShape samples[] = {
    shape(28, 28, 1, 32, 4, 4, 2, 1), shape(14, 14, 32, 64, 4, 4, 2, 1), shape(16, 16, 3, 32, 4, 4, 2, 1),
    shape(8, 8, 64, 24, 4, 4, 2, 1),  shape(9, 7, 5, 6, 3, 3, 2, 0),     shape(10, 11, 17, 3, 3, 2, 3, 1),
    shape(6, 6, 130, 9, 3, 3, 1, 1),  shape(5, 300, 2, 3, 3, 5, 1, 2),   shape(3, 600, 1, 2, 2, 2, 2, 0),
    shape(7, 300, 6, 5, 1, 1, 1, 0),  shape(4, 4, 8, 300, 4, 4, 1, 0),
};

}  // namespace

TEST_CASE("convolution, adjoint and weight gradient follow the definition for all small geometries") {
  Pool pool(2);
  for (int stride = 1; stride <= 3; ++stride)
    for (int padding = 0; padding <= 2; ++padding)
      for (int kernel = 1; kernel <= 5; ++kernel)
        for (int channels : {1, 5}) {  // with size 6 and 8 some last rows and columns are seen by no window
          const Case c(shape(6, 8, channels, 7, kernel, std::min(5, kernel + 1), stride, padding), 3);
          CAPTURE(stride);
          CAPTURE(padding);
          CAPTURE(kernel);
          CAPTURE(channels);
          check(c, compute(pool, c));
        }
}

TEST_CASE("convolutions follow the definition for layers of models, and add") {
  check_definition_and_sum(samples, compute);
}

TEST_CASE("convolutions give the same bits for any number of threads and any width of vectors") {
  check_threads_and_widths(samples, 37, without_sum);
}

TEST_CASE("an image has the same bits alone and in a batch") {
  check_alone_and_in_batch(samples, 11, without_sum);
}

TEST_CASE("convolutions finish every element once, at its place") {
  Pool pool(2);
  Workspace workspace;
  for (const ConvolutionShape& s : samples)
    for (long images : {1, 6}) {
      const Case c(s, images, false);
      const Results plain = compute(pool, c);
      Results r = plain;
      FinishCheck forward(c.y.size(), s.out_channels), adjoint(c.x.size(), s.channels);
      convolution(pool, workspace, s, images, c.x.data(), c.weight.data(), r.forward.data(), false, forward.finish());
      convolution_adjoint(pool, workspace, s, images, c.y.data(), c.weight.data(), r.adjoint.data(), false,
                          adjoint.finish());
      CHECK(forward.once_each(plain.forward, r.forward));
      CHECK(adjoint.once_each(plain.adjoint, r.adjoint));
    }
}

TEST_CASE("no images: outputs are untouched, and the weight gradient is zero") {
  Pool pool(2);
  Workspace workspace;
  const ConvolutionShape s = samples[0];
  std::vector<float> gradient(16 * 32, 7.0f);
  convolution(pool, workspace, s, 0, nullptr, gradient.data(), nullptr, false);
  convolution_adjoint(pool, workspace, s, 0, nullptr, gradient.data(), nullptr, false);
  convolution_weight_gradient(pool, workspace, s, 0, nullptr, nullptr, gradient.data(), true);
  CHECK(gradient == std::vector<float>(16 * 32, 7.0f));
  convolution_weight_gradient(pool, workspace, s, 0, nullptr, nullptr, gradient.data(), false);
  CHECK(gradient == std::vector<float>(16 * 32, 0.0f));
}

TEST_CASE("a second convolution of the same size takes no more memory") {
  Pool pool(2);
  Workspace workspace;
  const Case c(samples[1], 9, false);
  Results r = compute(pool, c);
  std::size_t size = 0;
  for (int repeat = 0; repeat < 3; ++repeat) {
    convolution(pool, workspace, c.s, c.images, c.x.data(), c.weight.data(), r.forward.data(), false);
    convolution_weight_gradient(pool, workspace, c.s, c.images, c.x.data(), c.y.data(), r.gradient.data(), false);
    if (repeat == 0) size = workspace.size();
  }
  CHECK(workspace.size() == size);
}
