// A flat array of numbers, zero at first, aligned to cache lines.
#pragma once

#include <vaelib/core/error.hpp>

#include <algorithm>
#include <cstddef>
#include <new>
#include <utility>

namespace vaelib::inline VAELIB_ABI {

template <class T>
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(long n) { resize(n); }
  Buffer(const Buffer& other) {
    resize(other.count);
    std::copy_n(other.memory, count, memory);
  }
  Buffer(Buffer&& other) noexcept : memory(std::exchange(other.memory, nullptr)), count(std::exchange(other.count, 0)) {}
  Buffer& operator=(Buffer other) noexcept {
    std::swap(memory, other.memory);
    std::swap(count, other.count);
    return *this;
  }
  ~Buffer() { release(); }

  /// New memory, all zero.
  [[gnu::cold]] void resize(long n) {
    release();
    memory = static_cast<T*>(::operator new(n * sizeof(T), std::align_val_t(64)));
    count = n;
    std::fill_n(memory, n, T(0));
  }
  /// At least n numbers; those that were there are lost where it has to grow.
  T* at_least(long n) {
    if (count < n) resize(n);
    return memory;
  }
  T* data() { return memory; }
  const T* data() const { return memory; }
  long size() const { return count; }
  T* begin() { return memory; }
  T* end() { return memory + count; }
  const T* begin() const { return memory; }
  const T* end() const { return memory + count; }
  T& operator[](long i) { return memory[i]; }
  const T& operator[](long i) const { return memory[i]; }

 private:
  void release() {
    if (memory) ::operator delete(memory, std::align_val_t(64));
    memory = nullptr;
    count = 0;
  }
  T* memory = nullptr;
  long count = 0;
};

}  // namespace vaelib::inline VAELIB_ABI
