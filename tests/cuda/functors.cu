// Every functor compiles for the device, in value and gradient: this file is compiled where nvcc exists, not run.
//
// A functor is added by one line at the end. nvcc takes named functors; it refuses plain lambdas as kernel arguments.
#include <utility>
#include <vaelib/core/dual.hpp>
#include <vaelib/core/random.hpp>

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
struct BernoulliNll {
  constexpr auto operator()(auto logit, auto target) const { return softplus(logit) - logit * target; }
};

#define VAELIB_COMPILE(F) template __global__ void value_and_gradient(F, int, float*, float*, const float*)
#define VAELIB_COMPILE_2(F) \
  template __global__ void value_and_gradient(F, int, float*, float*, const float*, const float*)

VAELIB_COMPILE(Kinks);
VAELIB_COMPILE(Exponentials);
VAELIB_COMPILE(Sigmoids);
VAELIB_COMPILE(Waves);
VAELIB_COMPILE_2(BernoulliNll);

}  // namespace device_test
