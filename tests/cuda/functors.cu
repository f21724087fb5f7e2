// Every functor compiles for the device, in value and gradient: this file is compiled where nvcc exists, not run.
//
// A functor is added by one line at the end. nvcc takes named functors; it refuses plain lambdas as kernel arguments.
#include <utility>
#include <vaelib/core/dual.hpp>
#include <vaelib/core/random.hpp>
#include <vaelib/latents/gaussian.hpp>
#include <vaelib/layers/activations.hpp>
#include <vaelib/likelihoods/bernoulli.hpp>
#include <vaelib/likelihoods/continuous_bernoulli.hpp>
#include <vaelib/likelihoods/gaussian.hpp>
#include <vaelib/likelihoods/laplace.hpp>
#include <vaelib/models/vae.hpp>

namespace device_test {

using namespace vaelib;

template <class F, int... K, class... Inputs>
__device__ Dual<float, sizeof...(K)> with_slopes(const F& f, std::integer_sequence<int, K...>, Inputs... inputs) {
  return f(Dual<float, sizeof...(K)>::input(inputs, K)...);
}

/// value = f(inputs), slopes = its gradient, one element a thread.
template <class F, class... Inputs>
__global__ void value_and_gradient(F f, int count, float* value, float* slopes, const Inputs*... inputs) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i >= count) return;
  value[i] = f(inputs[i]...);
  const auto dual = with_slopes(f, std::make_integer_sequence<int, sizeof...(Inputs)>{}, inputs[i]...);
  for (int k = 0; k < static_cast<int>(sizeof...(Inputs)); ++k) slopes[k * count + i] = dual.slope[k];
}

__global__ void random_words(RandomKey key, int count, std::uint32_t* out) {
  const auto i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < static_cast<unsigned>(count)) out[i] = philox(key.counter(i / 4, 0), key.words())[i % 4];
}

struct Kinks {
  constexpr auto operator()(auto x) const {
    return select(x > 0, x, 0.01f * x) + clamp(x, -1, 1) + abs(max(x, 2)) - min(x, 0.5f);
  }
};
struct Exponentials {
  constexpr auto operator()(auto x) const { return exp(x) + expm1(x) + log(x) + log1p(x) + softplus(x); }
};
struct Sigmoids {
  constexpr auto operator()(auto x) const { return tanh(x) * sigmoid(x) * erf(x * 0.70710678f); }
};
struct Waves {
  constexpr auto operator()(auto x) const { return sin(x) / cos(x) + sqrt(x) * rsqrt(x) + pow(square(x), 3); }
};
#define VAELIB_COMPILE(F) template __global__ void value_and_gradient(F, int, float*, float*, const float*)
#define VAELIB_COMPILE_2(F) \
  template __global__ void value_and_gradient(F, int, float*, float*, const float*, const float*)
#define VAELIB_COMPILE_3(F) \
  template __global__ void value_and_gradient(F, int, float*, float*, const float*, const float*, const float*)
#define VAELIB_COMPILE_4(F)                                                                                    \
  template __global__ void value_and_gradient(F, int, float*, float*, const float*, const float*, const float*, \
                                              const float*)

VAELIB_COMPILE(Kinks);
VAELIB_COMPILE(Exponentials);
VAELIB_COMPILE(Sigmoids);
VAELIB_COMPILE(Waves);

VAELIB_COMPILE(Identity);
VAELIB_COMPILE(Square);
VAELIB_COMPILE_2(Add);
VAELIB_COMPILE_2(Subtract);
VAELIB_COMPILE_2(Multiply);

VAELIB_COMPILE(ReLU);
VAELIB_COMPILE(LeakyReLU);
VAELIB_COMPILE(ELU);
VAELIB_COMPILE(GELU);
VAELIB_COMPILE(SiLU);
VAELIB_COMPILE(Tanh);
VAELIB_COMPILE(Sigmoid);
VAELIB_COMPILE(Softplus);

VAELIB_COMPILE_2(BernoulliNll);
VAELIB_COMPILE(Bernoulli::Probability);
VAELIB_COMPILE_2(ContinuousBernoulliNll);
VAELIB_COMPILE(ContinuousBernoulli::Mean);
VAELIB_COMPILE_2(AbsoluteDifference);
VAELIB_COMPILE_2(LaplaceRowNll);
VAELIB_COMPILE(Laplace::Nll);
VAELIB_COMPILE_2(SquaredDifference);
VAELIB_COMPILE_2(GaussianRowNll);
VAELIB_COMPILE(OptimalNll);
VAELIB_COMPILE(FixedGaussian::Nll);
VAELIB_COMPILE(OptimalGaussian::Nll);

VAELIB_COMPILE(SoftClamp);
VAELIB_COMPILE_3(Reparameterise);
VAELIB_COMPILE_2(StandardNormalKl);

VAELIB_COMPILE(AtLeast);
VAELIB_COMPILE_4(Objective);

}  // namespace device_test
