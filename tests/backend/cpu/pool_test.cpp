#include <doctest/doctest.h>

#include <atomic>
#include <cstdio>
#include <stdexcept>
#include <string>
#include <thread>
#include <vaelib/backend/cpu/pool.hpp>
#include <vector>

using namespace vaelib;
using namespace vaelib::cpu;

TEST_CASE("there is at least one thread, and a pool has as many as asked") {
  CHECK(available_threads() >= 1);
  CHECK(Pool().threads() == available_threads());
  CHECK(Pool(3).threads() == 3);
}

TEST_CASE("limits of control groups are read as whole processors") {
  CHECK(cpu::detail::processors(-1, 100000) == 0);
  CHECK(cpu::detail::processors(50000, 100000) == 1);
  CHECK(cpu::detail::processors(250000, 100000) == 2);
  CHECK(cpu::detail::processors(250000, 0) == 0);
  CHECK(cpu::detail::quota_v2("/no such folder") == 0);
  CHECK(cpu::detail::quota_v1("/no such folder") == 0);
  const auto quota = [](const std::string& folder) { return folder == "/r/a" ? 3 : folder == "/r" ? 5 : 0; };
  CHECK(cpu::detail::smallest_quota("/r", "/a/b", quota) == 3);
  CHECK(cpu::detail::smallest_quota("/r", "/c", quota) == 5);
  CHECK(cpu::detail::smallest_quota("/s", "", quota) == 0);
}

TEST_CASE("every task is run once and its writes are seen") {
  for (int threads = 1; threads <= 5; ++threads) {
    Pool pool(threads);
    for (long tasks : {0L, 1L, 2L, 7L, 1000L}) {
      std::vector<int> calls(static_cast<std::size_t>(tasks));
      for (int repeat = 0; repeat < 50; ++repeat)
        pool.run(tasks, [&](long task) { ++calls[static_cast<std::size_t>(task)]; });
      CHECK(calls == std::vector<int>(static_cast<std::size_t>(tasks), 50));
    }
  }
}

TEST_CASE("a worker runs one task at a time") {
  Pool pool(4);
  std::atomic<int> busy[4] = {};
  std::atomic<bool> good = true;
  pool.run(2000, [&](long, int worker) {
    if (worker < 0 || worker >= 4 || ++busy[worker] != 1) good = false;
    --busy[worker];
  });
  CHECK(good);
}

TEST_CASE("a nested run is in line, on the same worker") {
  Pool pool(3);
  std::atomic<int> wrong = 0, inner = 0;
  pool.run(20, [&](long, int worker) {
    const auto thread = std::this_thread::get_id();
    pool.run(5, [&](long, int nested) {
      ++inner;
      if (nested != worker || thread != std::this_thread::get_id()) ++wrong;
    });
  });
  CHECK(inner == 100);
  CHECK(wrong == 0);
}

TEST_CASE("an exception reaches the caller after all tasks, and the pool lives on") {
  for (int threads : {1, 3}) {
    Pool pool(threads);
    for (int repeat = 0; repeat < 20; ++repeat) {
      std::atomic<int> done = 0;
      CHECK_THROWS_AS(pool.run(30,
                               [&](long task) {
                                 ++done;
                                 if (task % 10 == 3) throw std::runtime_error("task");
                               }),
                      std::runtime_error);
      CHECK(done == 30);
      pool.run(30, [&](long) { ++done; });
      CHECK(done == 60);
    }
  }
}

TEST_CASE("threads may share a pool") {
  Pool pool(2);
  std::atomic<long> sum = 0;
  std::vector<std::thread> users;
  for (int user = 0; user < 3; ++user)
    users.emplace_back([&] {
      for (int repeat = 0; repeat < 200; ++repeat) pool.run(10, [&](long task) { sum += task; });
    });
  for (std::thread& user : users) user.join();
  CHECK(sum == 3 * 200 * 45);
}

TEST_CASE("a sleeping pool wakes up") {
  Pool pool(2);
  for (int repeat = 0; repeat < 3; ++repeat) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    std::atomic<int> done = 0;
    pool.run(8, [&](long) { ++done; });
    CHECK(done == 8);
  }
}
