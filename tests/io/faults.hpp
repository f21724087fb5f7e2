// What the tests of files share: a folder that is removed again, and faults injected by count through file_hook.
#pragma once

#include <vaelib/io/file.hpp>

#include <doctest/doctest.h>
#include <sys/wait.h>

#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

namespace io_test {

/// A new folder; removed with the files and folders in it.
struct TemporaryFolder {
  std::string path;

  TemporaryFolder() {
    // Memory rather than a disk, where it can be had: hundreds of flushes would wait for whatever else writes to the
    // disk.
    const char* chosen = std::getenv("TMPDIR");
    const std::string base = chosen && *chosen ? chosen : ::access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";
    path = base + "/vaelib-test-XXXXXX";
    if (!::mkdtemp(path.data())) vaelib::fail("cannot make a temporary folder at ", path);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  ~TemporaryFolder() { remove(path); }

  std::string operator/(std::string_view name) const { return path + '/' + std::string(name); }

  static void remove(const std::string& folder) {
    for (const std::string& name : vaelib::list_folder(folder)) {
      const std::string entry = folder + '/' + name;
      if (::unlink(entry.c_str()) == -1) remove(entry);
    }
    ::rmdir(folder.c_str());
  }
};

/// The names in a folder, sorted.
inline std::vector<std::string> names_in(const std::string& folder) {
  std::vector<std::string> names = vaelib::list_folder(folder);
  std::sort(names.begin(), names.end());
  return names;
}

/// Answers `answer` at operation number `at` (from 0), and at all later ones when `always`.
struct Fault {
  int answer = 0;
  int at = -1;
  bool always = false;
  int seen = 0;
  bool fired = false;
  std::string fired_at;
  std::string operations;  // their names, each with a space behind it
};
inline Fault fault;
inline constexpr int kill_answer = -1000;

inline int inject(const char* operation) {
  const int index = fault.seen++;
  fault.operations.append(operation).append(1, ' ');
  if (fault.at < 0 || index < fault.at || (index > fault.at && !fault.always)) return 0;
  if (fault.answer == kill_answer) std::raise(SIGKILL);
  if (!fault.fired) fault.fired_at = operation;
  fault.fired = true;
  return fault.answer;
}

/// Runs `work` with a fault; true where it threw an Error. Afterwards fault.seen and fault.fired tell what happened.
bool throws_with_fault(int answer, int at, auto work, bool always = false) {
  fault = Fault{};
  fault.answer = answer;
  fault.at = at;
  fault.always = always;
  vaelib::file_hook = inject;
  bool thrown = false;
  try {
    work();
  } catch (const vaelib::Error&) {
    thrown = true;
  }
  vaelib::file_hook = nullptr;
  return thrown;
}

int count_operations(auto work) {
  throws_with_fault(0, -1, work);
  return fault.seen;
}

/// Runs `work` in a process that is killed (SIGKILL) at operation number `at`; false where it ended before.
bool killed_at(int at, auto work) {
  const pid_t child = ::fork();
  if (child == 0) {
    const bool thrown = throws_with_fault(kill_answer, at, work);
    ::_exit(thrown ? 2 : 0);
  }
  int status = 0;
  REQUIRE(child > 0);
  REQUIRE(::waitpid(child, &status, 0) == child);
  if (WIFSIGNALED(status))
    REQUIRE(WTERMSIG(status) == SIGKILL);
  else
    REQUIRE(WEXITSTATUS(status) == 0);
  return WIFSIGNALED(status);
}

/// The text of the Error that `work` throws; empty where it throws none.
std::string error_of(auto work) {
  try {
    work();
  } catch (const vaelib::Error& error) {
    return error.what();
  }
  return "";
}

inline bool contains(std::string_view text, std::string_view part) { return text.find(part) != std::string_view::npos; }

/// Writes without any care: for files that are to be wrong.
inline void write_raw(const std::string& path, std::string_view bytes) {
  std::FILE* file = std::fopen(path.c_str(), "wb");
  REQUIRE(file != nullptr);
  REQUIRE(std::fwrite(bytes.data(), 1, bytes.size(), file) == bytes.size());
  REQUIRE(std::fclose(file) == 0);
}

}  // namespace io_test
