// Files: reads bounded by the file's true size, and writes that replace a file whole or not at all.
//
// A write goes to a temporary file beside the target (x.tmp.<pid>.<n>), is flushed to the disk and only then renamed
// over the target; the folder is flushed last. Whoever opens the target, after a kill or a power cut too, finds the old
// file or the new one, never a part of one.
//
// Every operation asks file_hook first, so that tests can make the n-th one fail or end the process there.
// POSIX only (descriptors, rename, fsync); other systems are not covered yet.
#pragma once

#include <vaelib/core/error.hpp>

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <concepts>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

namespace vaelib::inline VAELIB_ABI {

/// Called with the name of an operation (open, stat, read, write, fsync, close, rename, unlink, mkdir) before it.
/// Answers 0 to go on, an errno to fail with, or short_count to move only half of the bytes. For tests.
using FileHook = int (*)(const char* operation);
inline std::atomic<FileHook> file_hook{nullptr};
inline constexpr int short_count = -1;

namespace detail {

inline bool allowed(const char* operation, std::size_t* count = nullptr) {
  const FileHook hook = file_hook.load(std::memory_order_relaxed);
  const int answer = hook ? hook(operation) : 0;
  if (answer == short_count && count) *count = (*count + 1) / 2;
  if (answer > 0) errno = answer;
  return answer <= 0;
}

/// The result of a system call, made again as long as a signal interrupts it.
auto uninterrupted(auto call) {
  for (;;) {
    const auto result = call();
    if (result != -1 || errno != EINTR) return result;
  }
}

[[gnu::cold]] inline int open_file(const std::string& path, int flags) {
  return uninterrupted([&] { return allowed("open") ? ::open(path.c_str(), flags | O_CLOEXEC, 0666) : -1; });
}
[[gnu::cold]] inline int stat_file(int descriptor, struct stat& status) {
  return uninterrupted([&] { return allowed("stat") ? ::fstat(descriptor, &status) : -1; });
}
[[gnu::cold]] inline int stat_file(const std::string& path, struct stat& status) {
  return uninterrupted([&] { return allowed("stat") ? ::stat(path.c_str(), &status) : -1; });
}
inline ssize_t read_some(int descriptor, void* to, std::size_t count, std::uint64_t position) {
  return uninterrupted([&] {
    std::size_t part = count;
    return allowed("read", &part) ? ::pread(descriptor, to, part, static_cast<off_t>(position)) : ssize_t{-1};
  });
}
inline ssize_t write_some(int descriptor, const void* from, std::size_t count) {
  return uninterrupted([&] {
    std::size_t part = count;
    return allowed("write", &part) ? ::write(descriptor, from, part) : ssize_t{-1};
  });
}
[[gnu::cold]] inline int sync_file(int descriptor) {
  return uninterrupted([&] { return allowed("fsync") ? ::fsync(descriptor) : -1; });
}
/// The descriptor is gone afterwards, whatever the answer: a close that was interrupted must not be repeated.
[[gnu::cold]] inline int close_file(int descriptor) {
  const bool permitted = allowed("close");
  const int reason = errno;
  const int result = ::close(descriptor);
  if (!permitted) errno = reason;
  return (permitted && result == 0) || errno == EINTR ? 0 : -1;
}
[[gnu::cold]] inline int rename_file(const std::string& from, const std::string& to) {
  return uninterrupted([&] { return allowed("rename") ? ::rename(from.c_str(), to.c_str()) : -1; });
}
[[gnu::cold]] inline int unlink_file(const std::string& path) {
  return uninterrupted([&] { return allowed("unlink") ? ::unlink(path.c_str()) : -1; });
}
[[gnu::cold]] inline int make_folder(const std::string& path) {
  return uninterrupted([&] { return allowed("mkdir") ? ::mkdir(path.c_str(), 0777) : -1; });
}

[[noreturn]] inline void fail_with_errno(const std::string& path, std::string_view action) {
  const int reason = errno;
  fail(path, ": cannot ", action, ": ", std::strerror(reason));
}

/// Owns an open file.
class Descriptor {
 public:
  explicit Descriptor(int opened = -1) : number(opened) {}
  Descriptor(Descriptor&& other) noexcept : number(std::exchange(other.number, -1)) {}
  Descriptor& operator=(Descriptor&& other) noexcept {
    std::swap(number, other.number);
    return *this;
  }
  ~Descriptor() {
    if (number != -1) close_file(number);
  }
  int get() const { return number; }
  int release() { return std::exchange(number, -1); }
  int close() { return close_file(release()); }

 private:
  int number;
};

/// The bytes of a string, or of a contiguous container of plain values.
template <class Part>
std::string_view bytes_of(const Part& part) {
  if constexpr (std::convertible_to<const Part&, std::string_view>) {
    return part;
  } else {
    static_assert(std::is_trivially_copyable_v<std::remove_cvref_t<decltype(*part.data())>>);
    return {reinterpret_cast<const char*>(part.data()), part.size() * sizeof(*part.data())};
  }
}

}  // namespace detail

/// The folder that holds a file: "." when the path names none.
inline std::string folder_of(const std::string& path) {
  const std::size_t slash = path.find_last_of('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

/// Makes the entries of a folder (new names, renames) survive a power cut.
[[gnu::cold]] inline void sync_folder(const std::string& folder) {
  detail::Descriptor opened(detail::open_file(folder, O_RDONLY | O_DIRECTORY));
  if (opened.get() == -1 && errno == EACCES) return;  // may be written but not read: nothing more can be done
  if (opened.get() == -1) detail::fail_with_errno(folder, "open the folder");
  if (detail::sync_file(opened.get()) == -1 && errno != EINVAL)  // EINVAL: this file system syncs no folders
    detail::fail_with_errno(folder, "flush the folder to the disk");
}

/// Makes a folder and those above it; one that exists is left as it is.
inline void create_directories(const std::string& path) {
  struct stat status {};
  if (detail::stat_file(path, status) == 0) {
    if (!S_ISDIR(status.st_mode)) fail(path, ": cannot make this folder: a file of that name exists");
    return;
  }
  if (errno != ENOENT || path.empty()) detail::fail_with_errno(path, "make this folder");
  const std::string parent = folder_of(path);
  create_directories(parent);
  if (detail::make_folder(path) == -1 && errno != EEXIST) detail::fail_with_errno(path, "make this folder");
  sync_folder(parent);
}

/// The names in a folder, in no order, without "." and ".."; none where there is no such folder.
inline std::vector<std::string> list_folder(const std::string& folder) {
  detail::Descriptor descriptor(detail::open_file(folder, O_RDONLY | O_DIRECTORY));
  if (descriptor.get() == -1 && errno == ENOENT) return {};
  struct Listing {
    DIR* opened;
    ~Listing() {
      if (opened) ::closedir(opened);
    }
  } stream{descriptor.get() == -1 ? nullptr : ::fdopendir(descriptor.get())};
  if (!stream.opened) detail::fail_with_errno(folder, "list this folder");
  descriptor.release();  // it is the stream's now
  std::vector<std::string> names;
  errno = 0;
  while (const dirent* entry = ::readdir(stream.opened)) {
    const std::string_view name = entry->d_name;
    if (name != "." && name != "..") names.emplace_back(name);
    errno = 0;
  }
  if (errno != 0) detail::fail_with_errno(folder, "list this folder");
  return names;
}

/// Removes a file; one that is not there is no error.
inline void remove_file(const std::string& path) {
  if (detail::unlink_file(path) == -1 && errno != ENOENT) detail::fail_with_errno(path, "remove this file");
}

/// A file open for reading at any position, or bytes in memory that pass for one. Several threads may read at once.
class InputFile {
 public:
  [[gnu::cold]] explicit InputFile(std::string path) : name(std::move(path)) {
    // Opening a named pipe would wait for its writer; O_NONBLOCK does not, and changes nothing for regular files.
    opened = detail::Descriptor(detail::open_file(name, O_RDONLY | O_NONBLOCK));
    struct stat status {};
    if (opened.get() == -1 || detail::stat_file(opened.get(), status) == -1) detail::fail_with_errno(name, "open");
    if (S_ISDIR(status.st_mode)) fail(name, ": is a folder; a file was expected");
    if (!S_ISREG(status.st_mode)) fail(name, ": is a pipe or device; a regular file was expected");
    length = static_cast<std::uint64_t>(status.st_size);
  }
  /// `path` is only the name in errors.
  InputFile(std::string path, std::string bytes)
      : name(std::move(path)), memory(std::move(bytes)), length(memory.size()) {}

  const std::string& path() const { return name; }
  std::uint64_t size() const { return length; }

  void read_at(std::uint64_t position, void* to, std::size_t count) const {
    if (position > length || count > length - position)
      fail(name, ": byte ", position, ": expected ", count, " more bytes, found the end of the file at ", length);
    if (opened.get() == -1) {
      if (count > 0) std::memcpy(to, memory.data() + position, count);
      return;
    }
    for (std::size_t done = 0; done < count;) {
      const ssize_t got = detail::read_some(opened.get(), static_cast<char*>(to) + done, count - done, position + done);
      if (got < 0) detail::fail_with_errno(name, "read");
      if (got == 0) fail(name, ": byte ", position + done, ": the file was shortened while it was read");
      done += static_cast<std::size_t>(got);
    }
  }

 private:
  std::string name;
  detail::Descriptor opened;
  std::string memory;
  std::uint64_t length = 0;
};

/// The whole content of a file, refused before memory is taken when it has more than max_bytes.
inline std::string read_file(const InputFile& file, std::uint64_t max_bytes) {
  if (file.size() > max_bytes) fail(file.path(), ": has ", file.size(), " bytes; at most ", max_bytes, " were expected");
  std::string content(static_cast<std::size_t>(file.size()), '\0');
  file.read_at(0, content.data(), content.size());
  return content;
}
inline std::string read_file(const std::string& path, std::uint64_t max_bytes) { return read_file(InputFile(path), max_bytes); }

/// How many bytes of memory the content of a compressed file may fill: 48 for each of its bytes, and 48 MB in any case. Deflate
/// packs a thousand zeros into a byte, so that a small file could ask for all memory otherwise.
constexpr std::uint64_t largest_unpacked(std::uint64_t file_size) {
  return 48 * std::max(file_size, std::uint64_t{1} << 20);
}

/// A file in the making. Unless publish() is reached, the target stays as it was and the temporary file is removed.
class AtomicFile {
 public:
  [[gnu::cold]] explicit AtomicFile(std::string path) : target(std::move(path)) {
    // A killed process may have left a temporary file, and in a container the next one may have the same number.
    for (int attempt = 0; attempt < 1000; ++attempt) {
      std::string candidate = text(target, temporary_mark, ::getpid(), '.', attempt);
      opened = detail::Descriptor(detail::open_file(candidate, O_WRONLY | O_CREAT | O_EXCL));
      if (opened.get() != -1) temporary = std::move(candidate);
      if (opened.get() != -1 || errno != EEXIST) break;
    }
    if (opened.get() == -1) detail::fail_with_errno(target, "make a temporary file beside this file");
  }
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;
  ~AtomicFile() {
    if (!temporary.empty()) detail::unlink_file(temporary);
  }

  void write(const void* from, std::size_t count) {
    const auto* bytes = static_cast<const char*>(from);
    while (count > 0) {
      const ssize_t written = detail::write_some(opened.get(), bytes, count);
      if (written == 0) errno = ENOSPC;
      if (written <= 0) detail::fail_with_errno(target, "write");
      bytes += written;
      count -= static_cast<std::size_t>(written);
    }
  }
  /// All bytes are on the disk afterwards, under temporary_path().
  [[gnu::cold]] void flush_and_close() {
    if (detail::sync_file(opened.get()) == -1) detail::fail_with_errno(target, "flush to the disk");
    if (opened.close() == -1) detail::fail_with_errno(target, "close");
  }
  const std::string& temporary_path() const { return temporary; }
  /// Gives the file its name; to be called after flush_and_close().
  [[gnu::cold]] void publish() {
    if (detail::rename_file(temporary, target) == -1) detail::fail_with_errno(target, "put the new file in place");
    temporary.clear();
    sync_folder(folder_of(target));
  }

  static constexpr std::string_view temporary_mark = ".tmp.";

 private:
  std::string target;
  std::string temporary;
  detail::Descriptor opened;
};

/// Replaces a file by these parts, one after another: strings or contiguous containers of plain values.
void write_file_atomically(const std::string& path, const auto&... parts) {
  AtomicFile file(path);
  (file.write(detail::bytes_of(parts).data(), detail::bytes_of(parts).size()), ...);
  file.flush_and_close();
  file.publish();
}

}  // namespace vaelib::inline VAELIB_ABI
