#include <doctest/doctest.h>

#include <cstring>
#include <vaelib/backend/cpu/convolution.hpp>

#include "convolution_case.hpp"

using namespace vaelib::cpu;
using vaelib::cpu::detail::Winograd;

namespace {

using Case = ConvolutionCase;
using Results = ConvolutionResults;

/// Also where it does not pay.
Results compute(Pool& pool, const Case& c, bool add = false, float before = 1e30f) {
  Results r(c, before);
  Workspace workspace;
  winograd(pool, workspace, c.s, false, c.images, c.x.data(), c.weight.data(), r.forward.data(), add, {});
  winograd(pool, workspace, c.s, true, c.images, c.y.data(), c.weight.data(), r.adjoint.data(), add, {});
  winograd_gradient(pool, workspace, c.s, c.images, c.x.data(), c.y.data(), r.gradient.data(), add);
  return r;
}

ConvolutionShape square(int height, int width, int channels, int out_channels, int kernel, int padding = 1) {
  return shape(height, width, channels, out_channels, kernel, kernel, kernel == 4 ? 2 : 1, padding);
}

constexpr auto without_sum = [](Pool& pool, const Case& c) { return compute(pool, c); };

const ConvolutionShape samples[] = {
    square(8, 8, 64, 48, 3),  square(7, 5, 16, 96, 3),  square(1, 1, 32, 16, 3),  square(3, 200, 16, 16, 3),
    square(8, 8, 48, 64, 4),  square(10, 7, 80, 16, 4), square(2, 2, 16, 16, 4),  square(5, 120, 16, 32, 4),
    square(4, 4, 272, 16, 3), square(6, 6, 16, 272, 3), square(4, 4, 16, 288, 4),
};

}  // namespace

TEST_CASE("Winograd's convolutions follow the definition for all small geometries") {
  Pool pool(2);
  for (int kernel : {3, 4})
    for (int padding = 0; padding <= 3; ++padding)
      for (int height = std::max(1, kernel - 2 * padding); height <= 7; ++height) {
        const Case c(square(height, 11 - height, 16, 32, kernel, padding), 3);
        CAPTURE(kernel);
        CAPTURE(padding);
        CAPTURE(height);
        check(c, compute(pool, c));
      }
}

TEST_CASE("Winograd's convolutions follow the definition for layers of models, and add") {
  check_definition_and_sum(samples, compute);
}

TEST_CASE("Winograd's convolutions give the same bits for any number of threads and any width of vectors") {
  check_threads_and_widths(samples, 67, without_sum);
}

TEST_CASE("an image convolved by Winograd's algorithm has the same bits alone and in a batch") {
  check_alone_and_in_batch(samples, 30, without_sum);
}

TEST_CASE("Winograd's convolutions finish every element once, at its place") {
  Pool pool(2);
  Workspace workspace;
  for (const ConvolutionShape& s : samples)
    for (long images : {1, 30}) {
      const Case c(s, images, false);
      const Results plain = compute(pool, c);
      Results r = plain;
      FinishCheck forward(c.y.size(), s.out_channels), adjoint(c.x.size(), s.channels);
      winograd(pool, workspace, s, false, images, c.x.data(), c.weight.data(), r.forward.data(), false,
               forward.finish());
      winograd(pool, workspace, s, true, images, c.y.data(), c.weight.data(), r.adjoint.data(), false,
               adjoint.finish());
      CHECK(forward.once_each(plain.forward, r.forward));
      CHECK(adjoint.once_each(plain.adjoint, r.adjoint));
    }
}

TEST_CASE("convolutions take Winograd's algorithm where it pays, whatever the batch") {
  for (int kernel : {3, 4}) {
    CHECK(Winograd::pays(square(16, 16, 64, 64, kernel)));
    CHECK_FALSE(Winograd::pays(square(16, 16, 64, 60, kernel)));  // channels left over
    CHECK_FALSE(Winograd::pays(square(16, 16, 3, 64, kernel)));
    CHECK_FALSE(Winograd::pays(square(2, 2, 64, 64, kernel)));      // the weights take longer than the images
    CHECK_FALSE(Winograd::pays(square(16, 16, 512, 512, kernel)));  // too much memory
  }
  CHECK_FALSE(Winograd::pays(shape(16, 16, 64, 64, 3, 4, 1, 1)));
  CHECK_FALSE(Winograd::pays(shape(16, 16, 64, 64, 3, 3, 2, 1)));
  CHECK_FALSE(Winograd::pays(shape(16, 16, 64, 64, 1, 1, 1, 0)));

  Pool pool(2);
  Workspace workspace;
  for (int kernel : {3, 4})
    for (long images : {1, 9}) {
      const Case c(square(16, 16, 64, 64, kernel), images);
      Results r(c, 1e30f);
      convolution(pool, workspace, c.s, images, c.x.data(), c.weight.data(), r.forward.data(), false);
      convolution_adjoint(pool, workspace, c.s, images, c.y.data(), c.weight.data(), r.adjoint.data(), false);
      convolution_weight_gradient(pool, workspace, c.s, images, c.x.data(), c.y.data(), r.gradient.data(), false);
      check(c, r);
      CHECK(same(r, compute(pool, c)));
    }
}

TEST_CASE("no images: Winograd's outputs are untouched, and the weight gradient is zero") {
  Pool pool(2);
  Workspace workspace;
  const ConvolutionShape s = square(16, 16, 64, 64, 3);
  const std::vector<float> before(9 * 64 * 64, 7.0f);
  std::vector<float> gradient = before;
  convolution(pool, workspace, s, 0, nullptr, gradient.data(), nullptr, false);
  convolution_adjoint(pool, workspace, s, 0, nullptr, gradient.data(), nullptr, false);
  convolution_weight_gradient(pool, workspace, s, 0, nullptr, nullptr, gradient.data(), true);
  CHECK(gradient == before);
  convolution_weight_gradient(pool, workspace, s, 0, nullptr, nullptr, gradient.data(), false);
  CHECK(gradient == std::vector<float>(before.size(), 0.0f));
}

TEST_CASE("smaller batches after the largest take no more memory") {
  Pool pool(2);
  Workspace workspace;
  std::size_t size = 0;
  for (long images : {40, 40, 39, 17, 1}) {
    const Case c(square(8, 8, 32, 64, 3), images, false);
    Results r(c, 0);
    winograd(pool, workspace, c.s, false, images, c.x.data(), c.weight.data(), r.forward.data(), false, {});
    winograd(pool, workspace, c.s, true, images, c.y.data(), c.weight.data(), r.adjoint.data(), false, {});
    winograd_gradient(pool, workspace, c.s, images, c.x.data(), c.y.data(), r.gradient.data(), false);
    if (size == 0) size = workspace.size();
    CHECK(workspace.size() == size);
  }
}
