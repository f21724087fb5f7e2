// How many threads this process may keep busy: the processors of its affinity mask, cut down to the processor time that
// its control group (version 1 or 2, as containers use them) is given.
#pragma once

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>
#include <vaelib/version.hpp>

#if defined(__linux__)
#include <sched.h>
#endif

namespace vaelib::inline VAELIB_ABI {
namespace cpu {

namespace detail {

/// The first line of a small file; empty if it cannot be read.
[[gnu::cold]] inline std::string first_line(const std::string& path) {
  char line[256] = "";
  if (std::FILE* file = std::fopen(path.c_str(), "r")) {
    if (!std::fgets(line, sizeof line, file)) line[0] = 0;
    std::fclose(file);
  }
  return line;
}

/// Whole processors in a quota of microseconds per period; 0 if there is no limit.
inline int processors(double quota, double period) {
  return quota > 0 && period > 0 ? std::max(1, static_cast<int>(std::min(quota / period, 1e6))) : 0;
}

/// The limit of version 2, written "quota period" or "max period".
[[gnu::cold]] inline int quota_v2(const std::string& folder) {
  double quota = 0, period = 0;
  return std::sscanf(first_line(folder + "/cpu.max").c_str(), "%lf %lf", &quota, &period) == 2
             ? processors(quota, period)
             : 0;
}

/// The limit of version 1; a quota of -1 means none.
[[gnu::cold]] inline int quota_v1(const std::string& folder) {
  return processors(std::atof(first_line(folder + "/cpu.cfs_quota_us").c_str()),
                    std::atof(first_line(folder + "/cpu.cfs_period_us").c_str()));
}

/// The smallest limit from a group up to the root; 0 if there is none.
[[gnu::cold]] inline int smallest_quota(const std::string& root, std::string group, int (*quota)(const std::string&)) {
  int smallest = 0;
  for (;;) {
    const int limit = quota(root + group);
    if (limit > 0 && (smallest == 0 || limit < smallest)) smallest = limit;
    if (group.empty()) return smallest;
    const auto slash = group.rfind('/');
    group.erase(slash == std::string::npos ? 0 : slash);
  }
}

/// The limit of this process's control groups; 0 if there is none. A line of the list reads "number:controllers:group".
[[gnu::cold]] inline int control_group_quota() {
  std::FILE* list = std::fopen("/proc/self/cgroup", "r");
  if (!list) return 0;
  int smallest = 0;
  char line[4096];
  while (std::fgets(line, sizeof line, list)) {
    line[std::strcspn(line, "\n")] = 0;
    char* controllers = std::strchr(line, ':');
    char* group = controllers ? std::strchr(controllers + 1, ':') : nullptr;
    if (!group) continue;
    *group++ = 0;
    const std::string names = "," + std::string(controllers + 1) + ",";
    if (std::strcmp(group, "/") == 0) group = const_cast<char*>("");
    int limit = 0;
    if (names == ",,") limit = smallest_quota("/sys/fs/cgroup", group, quota_v2);
    if (names.find(",cpu,") != std::string::npos) limit = smallest_quota("/sys/fs/cgroup/cpu", group, quota_v1);
    if (limit > 0 && (smallest == 0 || limit < smallest)) smallest = limit;
  }
  std::fclose(list);
  return smallest;
}

[[gnu::cold]] inline int affinity() {
#if defined(__linux__)
  for (int processors = 1024; processors <= 1 << 16; processors *= 4) {  // larger machines need a larger mask
    cpu_set_t* mask = CPU_ALLOC(processors);
    if (!mask) break;
    const std::size_t size = CPU_ALLOC_SIZE(processors);
    const int count = sched_getaffinity(0, size, mask) == 0 ? CPU_COUNT_S(size, mask) : 0;
    CPU_FREE(mask);
    if (count > 0) return count;
  }
#endif
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

}  // namespace detail

/// Threads that can run at the same time, at least 1.
[[gnu::cold]] inline int available_threads() {
  const int quota = detail::control_group_quota();
  return quota > 0 ? std::min(quota, detail::affinity()) : detail::affinity();
}

}  // namespace cpu
}  // namespace vaelib::inline VAELIB_ABI
