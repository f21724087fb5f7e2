// Runs vae and the other programs as their users do, in folders that are removed afterwards.
#pragma once

#include <doctest/doctest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <vaelib/io/file.hpp>
#include <vaelib/io/idx.hpp>
#include <vector>

namespace program {

using Arguments = std::vector<std::string>;

struct TemporaryFolder {
  std::string path;
  TemporaryFolder() {
    path = (std::filesystem::temp_directory_path() / "vae_test.XXXXXX").string();
    if (!::mkdtemp(path.data())) vaelib::fail(path, ": cannot be made");
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  ~TemporaryFolder() { std::filesystem::remove_all(path); }
  std::string operator/(const std::string& name) const { return path + '/' + name; }
};

inline std::string content(const std::string& path) { return vaelib::read_file(path, std::uint64_t{1} << 30); }
inline bool exists(const std::string& path) { return std::filesystem::exists(path); }

struct Result {
  int code = -1;  ///< the exit code; -signal where a signal ended the program
  std::string out, err;
};

inline bool has(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

/// It failed as a program should: the code, nothing but one line on standard error, and that says so.
inline void check_refusal(const Result& result, int code, const std::string& sentence, const std::string& program = "vae") {
  CHECK(result.code == code);
  CHECK(result.err.starts_with(program + ": "));
  CHECK(std::count(result.err.begin(), result.err.end(), '\n') == 1);
  CHECK_MESSAGE(has(result.err, sentence), result.err);
}

struct Limits {
  std::string killed_after{};  ///< killed once this file exists; empty: never
  long turns = 0;              ///< and after so many turns of an idle loop
  int signal = SIGKILL;        ///< by this signal
  rlim_t largest_file = 0;  ///< bytes; writing more fails, as on a full disk; 0: no limit
  const char* program = VAELIB_VAE_PROGRAM;
};

/// The child's part: never returns.
[[noreturn]] inline void become_program(const Arguments& arguments, const std::string& folder, const Limits& limits) {
  const auto redirect = [&](const char* name, int to) {
    const int file = ::open((folder + '/' + name).c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
    if (file == -1 || ::dup2(file, to) == -1) ::_exit(120);
  };
  redirect("stdout", STDOUT_FILENO);
  redirect("stderr", STDERR_FILENO);
  if (limits.largest_file > 0) {
    const rlimit limit{limits.largest_file, limits.largest_file};
    std::signal(SIGXFSZ, SIG_IGN);  // then write fails with EFBIG
    ::setrlimit(RLIMIT_FSIZE, &limit);
  }
  std::vector<char*> pointers{const_cast<char*>(limits.program)};
  for (const auto& argument : arguments) pointers.push_back(const_cast<char*>(argument.c_str()));
  pointers.push_back(nullptr);
  ::execv(limits.program, pointers.data());
  ::_exit(121);
}

inline Result run(const Arguments& arguments, const Limits& limits = {}) {
  const TemporaryFolder folder;
  const pid_t child = ::fork();
  if (child == -1) vaelib::fail("fork failed");
  if (child == 0) become_program(arguments, folder.path, limits);
  int status = 0;
  pid_t ended = 0;
  if (!limits.killed_after.empty()) {
    while (ended == 0 && !exists(limits.killed_after)) ended = ::waitpid(child, &status, WNOHANG);
    for (std::atomic<long> turn = 0; turn < limits.turns;) ++turn;
    if (ended == 0) ::kill(child, limits.signal);
  }
  if (ended == 0) ::waitpid(child, &status, 0);
  return {WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status), content(folder / "stdout"),
          content(folder / "stderr")};
}

/// Four IDX files of 28 x 28 images in ten classes: a bright bar whose height is the class.
inline void write_images(const std::string& folder, std::uint32_t train, std::uint32_t test) {
  vaelib::create_directories(folder);
  const auto write = [&](const std::string& part, std::uint32_t count) {
    std::vector<std::uint8_t> pixels(std::size_t{count} * 784), labels(count);
    for (std::uint32_t i = 0; i < count; ++i) {
      labels[i] = static_cast<std::uint8_t>(i % 10);
      for (std::uint32_t k = 0; k < 3 * 28; ++k)
        pixels[i * 784 + (i % 10 * 2 + 4) * 28 + k] = static_cast<std::uint8_t>(128 + (i * 37 + k * 11) % 128);
    }
    vaelib::write_idx(folder + '/' + part + "-images-idx3-ubyte", {count, 28, 28}, pixels);
    vaelib::write_idx(folder + '/' + part + "-labels-idx1-ubyte", {count}, labels);
  };
  write("train", train);
  write("t10k", test);
}

}  // namespace program
