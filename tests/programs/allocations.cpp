// Once the largest batch was seen, a training step takes no memory: neither from the heap nor by mmap. Every way to
// either is interposed here and counted, in all threads.
#include <cstdio>

#if !defined(__GLIBC__) || defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define VAELIB_TEST_SKIP
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) || __has_feature(memory_sanitizer)
#define VAELIB_TEST_SKIP
#endif
#endif

#ifdef VAELIB_TEST_SKIP

int main() { std::puts("skipped: allocations cannot be counted here"); }

#else

#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>

#include <autodiff/toy_models.hpp>

namespace {
std::atomic<long> allocations{0};
}

extern "C" {
void* __libc_malloc(std::size_t);
void* __libc_calloc(std::size_t, std::size_t);
void* __libc_realloc(void*, std::size_t);
void* __libc_memalign(std::size_t, std::size_t);

void* malloc(std::size_t bytes) noexcept { return ++allocations, __libc_malloc(bytes); }
void* calloc(std::size_t count, std::size_t bytes) noexcept { return ++allocations, __libc_calloc(count, bytes); }
void* realloc(void* old, std::size_t bytes) noexcept { return ++allocations, __libc_realloc(old, bytes); }
void* aligned_alloc(std::size_t alignment, std::size_t bytes) noexcept {
  return ++allocations, __libc_memalign(alignment, bytes);
}
void* memalign(std::size_t alignment, std::size_t bytes) noexcept {
  return ++allocations, __libc_memalign(alignment, bytes);
}
int posix_memalign(void** out, std::size_t alignment, std::size_t bytes) noexcept {
  ++allocations;
  *out = __libc_memalign(alignment, bytes);
  return *out ? 0 : ENOMEM;
}
void* mmap(void* at, std::size_t bytes, int protection, int flags, int file, off_t offset) noexcept {
  ++allocations;
  return reinterpret_cast<void*>(syscall(SYS_mmap, at, bytes, protection, flags, file, offset));
}
}

namespace {

using namespace vaelib;

int failures = 0;
void expect(const std::string& what, long found, long wanted) {
  if (found == wanted) return;
  std::printf("%s: %ld allocations, expected %ld\n", what.c_str(), found, wanted);
  ++failures;
}

// wide, so that the memory of a step is more than one block of the arena
using FullyConnected = Vae<Sequential<toy::pixels, Flatten, Linear<4000>, ReLU>, Gaussian<5>,
                           Sequential<Shape{5}, Linear<4000>, ReLU, Linear<36>, Reshape<toy::pixels>>, Bernoulli>;
using Convolutional =
    Vae<Sequential<toy::pixels, Conv2d<8, 4, 2, 1>, BatchNorm, ReLU, Flatten, LayerNorm, GELU, Dropout>, Gaussian<5>,
        Sequential<Shape{5}, Linear<72>, BatchNorm, Reshape<Shape{3, 3, 8}>, ConvTranspose2d<1, 4, 2, 1>>,
        OptimalGaussian>;

using Pooled = Vae<Sequential<toy::pixels, Conv2d<8, 3, 1, 1>, GroupNorm<2>, MaxPool2d<2>, Gated, AvgPool2d<2, 1, 1>, ELU, Flatten>, Gaussian<5>,
                   Sequential<Shape{5}, Linear<36>, Reshape<Shape{3, 3, 4}>, Upsample<2>, Conv2d<3, 1>, Upsample<2, Interpolation::bilinear>,
                              MaxPool2d<2>, Conv2d<1, 1>>,
                   ContinuousBernoulli>;

/// Codes decoded into memory of the caller's, as in a loop with deadlines.
template <class Model>
void check_decoding(const std::string& name) {
  const Weights<Model, Cpu> weights;
  Session session(weights);
  std::vector<float> code(5), image(36);
  for (int i = 0; i < 2; ++i) session.decode(code, image);
  const long before = allocations;
  for (int i = 0; i < 10; ++i) session.decode(code, image);
  const long during = allocations - before;
  expect(name + ", decoding", during, 0);
}

template <class Model>
void check(const char* name, int threads) {
  char line[80];
  std::snprintf(line, sizeof line, "%s, %d threads, ", name, threads);
  const std::string prefix = line;

  // by hand: steps, smaller ones, evaluation
  std::vector<float> x(24 * 36, 0.3f);
  Learner<Model, Adam, Cpu> learner({}, {}, Cpu(threads), 1);
  const Batch<float> large{24, toy::pixels, x.data()}, small{5, toy::pixels, x.data()};
  const StepOptions options{.clip_norm = 1, .non_finite = NonFinite::roll_back, .roll_back = {.every = 2}};
  learner.learn(large, options);
  for (const auto& [batch, what] :
       {std::pair{large, "the same batch"}, {small, "a smaller one"}, {large, "the largest again"}}) {
    const long before = allocations;
    for (int i = 0; i < 3; ++i) learner.learn(batch, options);
    const long during = allocations - before;
    expect(prefix + what, during, 0);
  }
  const long before = allocations;
  learner.evaluate(large, 1, 0, 0);
  learner.evaluate(small, 1, 0, 0);
  const long during = allocations - before;
  expect(prefix + "evaluation", during, 0);

  // the loop: from one request for data to the next within an epoch
  struct Counting : toy::Patterns {
    std::vector<long>* counts;
    void fill(std::uint64_t epoch, std::span<const std::uint32_t> wanted, float* features, std::int32_t* labels) const {
      counts->push_back(allocations);
      Patterns::fill(epoch, wanted, features, labels);
    }
  };
  std::vector<long> counts;
  counts.reserve(100);
  Counting data;
  data.counts = &counts;
  Trainer trainer(Model{}, Adam{}, Cpu(threads), 7);
  trainer.fit(data,
              {.epochs = 3, .batch_size = 24, .beta = Cyclical{.period = 10}});  // 4 batches of 24 rows and one of 4
  long in_steps = 0;
  for (std::size_t i = 6; i < counts.size(); ++i)
    if (i % 5 != 0) in_steps += counts[i] - counts[i - 1];
  expect(prefix + "steps of fit", in_steps, 0);
  expect(prefix + "steps of fit seen", long(counts.size()), 15);
}

}  // namespace

int main() {
  const long before = allocations;
  int* volatile number = new int(3);  // volatile, or else the compiler leaves the pair out
  delete number;
  ::operator delete(::operator new(64, std::align_val_t(64)), std::align_val_t(64));
  munmap(mmap(nullptr, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), 4096);
  if (allocations - before != 3) std::printf("the counters do not count\n"), ++failures;

  check_decoding<FullyConnected>("fully connected");
  check_decoding<Convolutional>("convolutional");
  for (const int threads : {1, 2}) {
    check<FullyConnected>("fully connected", threads);
    check<Convolutional>("convolutional", threads);
    check<Pooled>("pooled", threads);
    check<toy::Attending>("attention", threads);
    check<toy::Checkpointed<true>>("checkpointed", threads);
  }
  std::printf("%d failures\n", failures);
  return failures > 0;
}

#endif
