// One pool of threads for the operations of a processor.
//
// An operation splits its work into tasks whose boundaries depend on shapes only. Which thread takes which task is left
// to chance and must not matter to the result; so a run gives the same bits with any number of threads.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <exception>
#include <memory>
#include <thread>
#include <type_traits>
#include <utility>
#include <vaelib/backend/cpu/threads.hpp>
#include <vaelib/version.hpp>

namespace vaelib::inline VAELIB_ABI {
namespace cpu {

/// Threads that wait for tasks. They spin for a few dozen microseconds, about the time between two operations of a
/// training step, and then sleep. With more threads than processors they sleep at once: a spinning thread would keep a
/// working one from its processor.
class Pool {
 public:
  /// The calling thread is one of the threads. 0: as many as the machine allows.
  [[gnu::cold]] explicit Pool(int threads = 0)
      : count_(std::max(1, threads > 0 ? threads : available_threads())),
        pauses_(count_ > available_threads() ? 0 : 3000) {
    try {
      workers_.reset(new std::thread[count_]);
      for (int worker = 1; worker < count_; ++worker) workers_[worker] = std::thread([this, worker] { serve(worker); });
    } catch (...) {
      stop();
      throw;
    }
  }
  ~Pool() { stop(); }
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  int threads() const { return count_; }

  /// Calls f(task) or f(task, worker) for each task in [0, tasks) and returns when all are done. A worker, in
  /// [0, threads()), runs one task at a time: it names scratch memory. All tasks are run even if some throw; the first
  /// exception is then thrown here. Called from inside a task, or while another thread uses the pool, it runs in line.
  template <class F>
  void run(long tasks, F&& f) {
    run_all(call<std::remove_reference_t<F>>, const_cast<void*>(static_cast<const void*>(&f)), tasks);
  }

 private:
  using Function = void (*)(void* context, long task, int worker);
  template <class F>
  static void call(void* context, long task, int worker) {
    F& f = *static_cast<F*>(context);
    if constexpr (requires { f(task, worker); }) {
      f(task, worker);
    } else {
      f(task);
    }
  }
  struct Job {
    Function function = nullptr;
    void* context = nullptr;
    long first = 0, tasks = 0;
  };
  struct Place {  // where the current thread is at work
    const Pool* pool = nullptr;
    int worker = 0;
  };
  static Place& place() {
    static thread_local Place here;
    return here;
  }

  static void pause() {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
  }

  void run_all(Function function, void* context, long tasks) {
    constexpr long most = 1L << 30;  // the ticket has 32 bits for the tasks left
    for (long first = 0; first < tasks; first += most) run_job({function, context, first, std::min(most, tasks - first)});
  }

  void run_job(const Job& job) {
    const bool nested = place().pool == this;
    if (job.tasks == 1 || count_ == 1 || nested || busy_.exchange(true, std::memory_order_acquire))
      return run_in_line(job, nested ? place().worker : 0);
    job_ = job;
    unfinished_.store(static_cast<std::uint32_t>(job.tasks), std::memory_order_relaxed);
    const std::uint64_t generation = (ticket_.load(std::memory_order_relaxed) >> 32) + 1;
    ticket_.store(generation << 32 | static_cast<std::uint64_t>(job.tasks), std::memory_order_release);
    posted_.fetch_add(1);
    posted_.notify_all();
    work(0);
    wait_until_finished();
    std::exception_ptr error = std::move(error_);
    error_ = nullptr;
    failed_.store(false, std::memory_order_relaxed);
    busy_.store(false, std::memory_order_release);
    if (error) std::rethrow_exception(error);
  }

  void run_in_line(const Job& job, int worker) {
    std::exception_ptr error;
    const Place outside = std::exchange(place(), Place{this, worker});
    for (long task = 0; task < job.tasks; ++task) {
      try {
        job.function(job.context, job.first + task, worker);
      } catch (...) {
        if (!error) error = std::current_exception();
      }
    }
    place() = outside;
    if (error) std::rethrow_exception(error);
  }

  // Takes tasks until none is left. The ticket holds the job's number and the tasks left; whoever takes one by
  // compare-and-exchange holds the job open until it counts the task as finished, so the job may be read in between.
  void work(int worker) {
    const Place outside = std::exchange(place(), Place{this, worker});
    std::uint64_t ticket = ticket_.load(std::memory_order_acquire);
    while (static_cast<std::uint32_t>(ticket) != 0) {
      if (!ticket_.compare_exchange_weak(ticket, ticket - 1, std::memory_order_acq_rel, std::memory_order_acquire))
        continue;
      const long task = job_.tasks - static_cast<long>(static_cast<std::uint32_t>(ticket));
      try {
        job_.function(job_.context, job_.first + task, worker);
      } catch (...) {
        if (!failed_.exchange(true)) error_ = std::current_exception();
      }
      if (unfinished_.fetch_sub(1, std::memory_order_acq_rel) == 1 && worker != 0) unfinished_.notify_all();
      ticket = ticket_.load(std::memory_order_acquire);
    }
    place() = outside;
  }

  void wait_until_finished() {
    for (int i = 0; i < pauses_; ++i) {
      if (unfinished_.load(std::memory_order_acquire) == 0) return;
      pause();
    }
    for (;;) {
      const std::uint32_t left = unfinished_.load(std::memory_order_acquire);
      if (left == 0) return;
      unfinished_.wait(left, std::memory_order_acquire);
    }
  }

  void serve(int worker) {
    for (;;) {
      const std::uint32_t seen = posted_.load(std::memory_order_acquire);
      if (stopped_.load(std::memory_order_acquire)) return;
      work(worker);
      bool idle = true;
      for (int i = 0; i < pauses_ && idle; ++i) {
        pause();
        idle = posted_.load(std::memory_order_acquire) == seen;
      }
      if (idle) posted_.wait(seen, std::memory_order_acquire);
    }
  }

  [[gnu::cold]] void stop() {
    stopped_.store(true, std::memory_order_release);
    posted_.fetch_add(1);
    posted_.notify_all();
    for (int worker = 1; workers_ && worker < count_; ++worker)
      if (workers_[worker].joinable()) workers_[worker].join();
  }

  int count_, pauses_;
  std::unique_ptr<std::thread[]> workers_;  // by number; 0 is the calling thread
  Job job_;
  std::exception_ptr error_;
  alignas(64) std::atomic<std::uint64_t> ticket_ = 0;      // number of the job, tasks left to take
  alignas(64) std::atomic<std::uint32_t> posted_ = 0;      // grows with every job
  alignas(64) std::atomic<std::uint32_t> unfinished_ = 0;  // tasks not finished yet
  alignas(64) std::atomic<bool> busy_ = false;
  std::atomic<bool> failed_ = false, stopped_ = false;
};

}  // namespace cpu
}  // namespace vaelib::inline VAELIB_ABI
