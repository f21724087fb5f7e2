// Reads batches of a data set; where it is asked to, the next one in a thread of its own while a step computes. Which rows
// come when does not depend on it.
#pragma once

#include <vaelib/core/buffer.hpp>
#include <vaelib/train/source.hpp>

#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>

namespace vaelib::inline VAELIB_ABI {

class BatchReader {
 public:
  using Rows = std::span<const std::uint32_t>;

  explicit BatchReader(SourceView source) : data(source) {}
  BatchReader(const BatchReader&) = delete;
  BatchReader& operator=(const BatchReader&) = delete;
  ~BatchReader() {
    {
      const std::lock_guard lock(mutex);
      closing = true;
    }
    changed.notify_all();
    if (worker.joinable()) worker.join();
  }

  /// Reads these rows, or waits for them where they are read already; what the data set throws is thrown here.
  void read(std::uint64_t epoch, Rows rows) {
    std::unique_lock lock(mutex);
    const bool ahead = next.rows.data() == rows.data() && next.rows.size() == rows.size() && next.epoch == epoch;
    changed.wait(lock, [&] { return !busy; });
    if (ahead) {
      std::swap(now, next);
      next.rows = {};
      if (now.error) std::rethrow_exception(std::exchange(now.error, nullptr));
    } else {
      now.fill(data, epoch, rows);
    }
  }
  /// Begins to read these rows, which are asked for next. The span must stay as it is until then.
  [[gnu::cold]] void read_ahead(std::uint64_t epoch, Rows rows) {
    const std::lock_guard lock(mutex);
    next.epoch = epoch;
    next.rows = rows;
    busy = true;
    if (!worker.joinable()) worker = std::thread([this] { work(); });
    changed.notify_all();
  }

  const float* features() const { return now.features.data(); }
  const std::int32_t* labels() const { return now.labels.data(); }
  /// Where the points of each row begin, and where the last one's end; null where rows are no sets.
  const long* offsets() const { return data.sets() ? now.offsets.data() : nullptr; }

 private:
  struct Slot {
    std::uint64_t epoch = 0;
    Rows rows{};
    Buffer<float> features;
    Buffer<std::int32_t> labels;
    Buffer<long> offsets;
    std::exception_ptr error{};

    void fill(const SourceView& source, std::uint64_t e, Rows r) {
      const long count = long(r.size());
      long points = count;
      if (source.sets()) {
        long* const begin = offsets.at_least(count + 1);
        begin[0] = 0;
        source.count(e, r, begin + 1);
        for (long i = 0; i < count; ++i) {
          if (begin[i + 1] < 0 || begin[i + 1] > (1L << 40)) fail("vaelib: row ", r[std::size_t(i)], " of the data has ", begin[i + 1], " points");
          begin[i + 1] += begin[i];
        }
        points = begin[count];
      }
      source.fill(e, r, features.at_least(points * source.shape().size()), labels.at_least(count));
    }
  };

  void work() {
    std::unique_lock lock(mutex);
    for (;;) {
      changed.wait(lock, [&] { return busy || closing; });
      if (closing) return;
      lock.unlock();
      try {
        next.fill(data, next.epoch, next.rows);
      } catch (...) {
        next.error = std::current_exception();
      }
      lock.lock();
      busy = false;
      changed.notify_all();
    }
  }

  SourceView data;
  Slot now, next;
  bool busy = false, closing = false;
  std::mutex mutex;
  std::condition_variable changed;
  std::thread worker;
};

}  // namespace vaelib::inline VAELIB_ABI
