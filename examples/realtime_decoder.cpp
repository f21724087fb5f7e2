// A decoder in a loop with deadlines, as audio and control have them: a sound of 64 samples is decoded from 8 knobs,
// 48000 / 64 times a second. One thread, a batch of 1, memory taken before the loop: no allocation, no lock, no system
// call within it.
//
//   realtime_decoder [MODEL.safetensors]     without a file: the first weights of seed 0
//
// Prints the latency of a block and the allocations within the loop, and exits 1 where there was one.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <new>
#include <vaelib/vae.hpp>

using namespace vaelib;

namespace {

using Model = Vae<Sequential<Shape{64}, Linear<128>, ReLU>, Gaussian<8>,
                  Sequential<Shape{8}, Linear<128>, ReLU, Linear<128>, ReLU, Linear<64>, Tanh>, FixedGaussian>;

long allocations = 0;

void* counted(std::size_t bytes, std::size_t alignment) {
  ++allocations;
  if (void* memory = std::aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment)) return memory;
  throw std::bad_alloc();
}

}  // namespace

void* operator new(std::size_t bytes) { return counted(bytes, alignof(std::max_align_t)); }
void* operator new(std::size_t bytes, std::align_val_t alignment) { return counted(bytes, std::size_t(alignment)); }
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t, std::align_val_t) noexcept { std::free(memory); }

int main(int argc, char** argv) {
  try {
    Weights<Model, Cpu> weights;
    if (argc > 1) load(argv[1], weights);

    constexpr int blocks = 20000;
    std::vector<float> knobs(8), sound(64);
    std::vector<double> microseconds(blocks);
    Session session{weights, Cpu{1}};
    for (int i = 0; i < 100; ++i) session.decode(knobs, sound);  // takes the memory, and wakes the processor

    const long before = allocations;
    for (double& time : microseconds) {
      knobs[0] += 0.001f;  // somebody turns one
      const auto start = std::chrono::steady_clock::now();
      session.decode(knobs, sound);
      time = std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start).count();
    }
    const long during = allocations - before;

    std::sort(microseconds.begin(), microseconds.end());
    std::printf(
        "%d blocks of 64 samples, us: median %.1f, 99 %% within %.1f, 99.9 %% within %.1f, longest %.1f; there are "
        "%.1f\n",
        blocks, microseconds[blocks / 2], microseconds[blocks / 100 * 99], microseconds[blocks / 1000 * 999],
        microseconds.back(), 64 / 48000.0 * 1e6);
    std::printf("%ld allocations in the loop\n", during);
    return during > 0;
  } catch (const Error& error) {
    std::fprintf(stderr, "realtime_decoder: %s\n", error.what());
    return 1;
  }
}
