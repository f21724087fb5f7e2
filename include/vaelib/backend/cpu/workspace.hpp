// Scratch memory of the operations: a part that all threads share (packed operands, partial sums), one for operands in
// another precision, and one for each worker of a pool (gathered pixels). It grows to the largest need and stays, so
// that a training step takes no memory from the heap once the largest batch was seen.
#pragma once

#include <cstddef>
#include <memory>
#include <new>
#include <vaelib/version.hpp>

namespace vaelib::inline VAELIB_ABI {
namespace cpu {

/// Uninitialized floats at a multiple of 64 bytes, the length of a cache line and of the widest vector.
class Scratch {
 public:
  /// At least `count` floats. What was in it is lost if it has to grow.
  float* take(std::size_t count) {
    if (count > size_) {
      memory_.reset();
      size_ = 0;
      memory_.reset(static_cast<float*>(::operator new(count * sizeof(float), std::align_val_t(64))));
      size_ = count;
    }
    return memory_.get();
  }
  std::size_t size() const { return size_; }

 private:
  struct Free {
    void operator()(float* memory) const { ::operator delete(memory, std::align_val_t(64)); }
  };
  std::unique_ptr<float, Free> memory_;
  std::size_t size_ = 0;
};

/// Serves one operation at a time. An operation asks for all it needs before it starts its tasks.
class Workspace {
 public:
  float* shared(std::size_t count) { return shared_.take(count); }

  float* operands(std::size_t count) { return operands_.take(count); }

  /// Makes sure that each of the workers has `count` floats.
  void reserve_workers(int workers, std::size_t count) {
    if (count_ < workers) workers_.reset(new Scratch[static_cast<std::size_t>(workers)]), count_ = workers;
    for (int worker = 0; worker < workers; ++worker) workers_[static_cast<std::size_t>(worker)].take(count);
  }
  float* worker(int index) { return workers_[static_cast<std::size_t>(index)].take(0); }

  /// All floats held.
  std::size_t size() const {
    std::size_t total = shared_.size() + operands_.size();
    for (int worker = 0; worker < count_; ++worker) total += workers_[static_cast<std::size_t>(worker)].size();
    return total;
  }

 private:
  Scratch shared_, operands_;
  std::unique_ptr<Scratch[]> workers_;
  int count_ = 0;
};

}  // namespace cpu
}  // namespace vaelib::inline VAELIB_ABI
