// Hostile files for the attack tests, and a process that reads one and tells what it took.
#pragma once

#include <vaelib/io/file.hpp>

#include <sys/resource.h>
#include <sys/wait.h>
#include <zlib.h>

#include <functional>

#include "io/faults.hpp"

namespace attacks {

using namespace vaelib;
using namespace io_test;

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
inline constexpr bool memory_is_our_own = false;  // a sanitizer takes more than what is tested
#elif defined(__has_feature)
inline constexpr bool memory_is_our_own = !__has_feature(address_sanitizer) && !__has_feature(thread_sanitizer);
#else
inline constexpr bool memory_is_our_own = true;
#endif

using Reader = std::function<void(const std::string& path)>;

struct Outcome {
  std::string error;     ///< empty where the file was read
  long megabytes = 0;    ///< most memory that the process had at a time, all of it: program, file, everything
  bool orderly = false;  ///< it ended by itself, with an Error or without
};

/// What a process of its own says of read(path) for a file of these bytes.
inline Outcome outcome_of(const std::string& path, const Reader& read) {
  int ends[2];
  REQUIRE(::pipe(ends) == 0);
  const pid_t child = ::fork();
  if (child == 0) {
    ::alarm(20);  // ends a read that does not
    int code = 0;
    try {
      read(path);
    } catch (const Error& error) {
      const std::string what = std::string(error.what()).substr(0, 4000);
      code = ::write(ends[1], what.data(), what.size()) > 0 ? 1 : 3;
    } catch (...) {
      code = 2;
    }
    ::_exit(code);
  }
  ::close(ends[1]);
  Outcome outcome;
  char buffer[4096];
  for (ssize_t got; (got = ::read(ends[0], buffer, sizeof buffer)) > 0;)
    outcome.error.append(buffer, static_cast<std::size_t>(got));
  ::close(ends[0]);
  int status = 0;
  rusage usage{};
  REQUIRE(::wait4(child, &status, 0, &usage) == child);
  outcome.megabytes = usage.ru_maxrss / 1000;
  outcome.orderly = WIFEXITED(status) && WEXITSTATUS(status) < 2;
  return outcome;
}

/// Fails unless read(path) refuses a file of these bytes by an Error with this sentence and with less than 64 MB.
inline void check_refused(std::string bytes, const Reader& read, std::string_view sentence) {
  const TemporaryFolder folder;
  write_raw(folder / "hostile", bytes);
  bytes = std::string();  // the other process would have them, too
  const Outcome outcome = outcome_of(folder / "hostile", read);
  CAPTURE(outcome.error);
  CHECK(outcome.orderly);
  CHECK(contains(outcome.error, sentence));
  if (memory_is_our_own) CHECK(outcome.megabytes < 64);
}

/// The same, but whatever the answer is: the file is just allowed, or refused.
inline void check_small(std::string bytes, const Reader& read) {
  const TemporaryFolder folder;
  write_raw(folder / "hostile", bytes);
  bytes = std::string();
  const Outcome outcome = outcome_of(folder / "hostile", read);
  CAPTURE(outcome.error);
  CHECK(outcome.orderly);
  if (memory_is_our_own) CHECK(outcome.megabytes < 64);
}

inline std::string little(std::uint64_t value, std::size_t width) {
  return std::string(reinterpret_cast<const char*>(&value), width);
}
inline std::string big(std::uint32_t value) {
  std::string bytes = little(value, 4);
  return {bytes.rbegin(), bytes.rend()};
}

inline std::string safetensors(const std::string& header, const std::string& data = "") {
  return little(header.size(), 8) + header + data;
}
inline std::string tensor(const std::string& name, const std::string& shape, std::uint64_t begin, std::uint64_t end,
                          const std::string& type = "F32") {
  return text('"', name, "\":{\"dtype\":\"", type, "\",\"shape\":[", shape, "],\"data_offsets\":[", begin, ',', end,
              "]}");
}
/// A checkpoint whose checksum fits, with these tensors before it.
inline std::string checkpoint(const std::string& tensors, const std::string& data) {
  std::string file =
      safetensors("{\"__metadata__\":{\"checkpoint.step\":\"1\"}," + tensors + (tensors.empty() ? "" : ",") +
                      tensor("checkpoint.crc32", "4", data.size(), data.size() + 4, "U8") + '}',
                  data);
  return file + little(crc32_z(0, reinterpret_cast<const Bytef*>(file.data()), file.size()), 4);
}

inline std::string npy(const std::string& shape, const std::string& values = "", const std::string& type = "<f4") {
  const std::string header = "{'descr': '" + type + "', 'fortran_order': False, 'shape': (" + shape + ",), }\n";
  return std::string("\x93NUMPY\x01\x00", 8) + little(header.size(), 2) + header + values;
}

inline std::string idx(const std::vector<std::uint32_t>& shape, const std::string& values = "") {
  std::string file{'\0', '\0', '\x08', static_cast<char>(shape.size())};
  for (const std::uint32_t extent : shape) file += big(extent);
  return file + values;
}

/// Deflated: these bytes and `zeros` more, in no more memory and hardly more time than they take packed.
inline std::string deflated(std::string bytes, std::uint64_t zeros, int window) {
  z_stream stream{};
  REQUIRE(deflateInit2(&stream, 9, Z_DEFLATED, window, 8, Z_DEFAULT_STRATEGY) == Z_OK);
  const auto packed = [&](std::string& content, int flush) {
    std::string result(content.size() / 50 + 1000, '\0');
    stream.next_in = reinterpret_cast<Bytef*>(content.data()), stream.avail_in = static_cast<uInt>(content.size());
    stream.next_out = reinterpret_cast<Bytef*>(result.data()), stream.avail_out = static_cast<uInt>(result.size());
    REQUIRE(deflate(&stream, flush) != Z_STREAM_ERROR);
    REQUIRE(stream.avail_in == 0);
    result.resize(result.size() - stream.avail_out);
    return result;
  };
  std::string file = packed(bytes, Z_FULL_FLUSH), block(std::size_t{1} << 22, '\0'), nothing;
  if (zeros > 0) {
    const std::string once = packed(block, Z_FULL_FLUSH);  // stands for itself behind a full flush, as often as wanted
    for (; zeros >= block.size(); zeros -= block.size()) file += once;
    block.resize(zeros);
    file += packed(block, Z_FULL_FLUSH);
  }
  file += packed(nothing, Z_FINISH);
  deflateEnd(&stream);
  return file;
}
inline std::string gzip(const std::string& bytes, std::uint64_t zeros = 0) {
  return deflated(bytes, zeros, 16 + MAX_WBITS);
}

struct Member {
  std::string name, packed;
  std::uint64_t size;
  bool deflated = false;
  std::string local_name = name;
};
/// A zip file. The checksums are those of what is stored; where it is compressed, of nothing.
inline std::string zip(const std::vector<Member>& members) {
  std::string file, directory;
  for (const Member& m : members) {
    const std::uint64_t checksum =
        m.deflated ? 0 : crc32_z(0, reinterpret_cast<const Bytef*>(m.packed.data()), m.packed.size());
    const std::string sizes = little(m.deflated ? 8 : 0, 2) + little(0, 4) + little(checksum, 4) +
                              little(m.packed.size(), 4) + little(m.size, 4);
    directory += "PK\x01\x02" + little(20, 2) + little(20, 2) + little(0, 2) + sizes + little(m.name.size(), 2) +
                 std::string(12, '\0') + little(file.size(), 4) + m.name;
    file += "PK\x03\x04" + little(20, 2) + little(0, 2) + sizes + little(m.local_name.size(), 2) + little(0, 2) +
            m.local_name + m.packed;
  }
  const std::uint64_t count = members.size();
  return file + directory + "PK\x05\x06" + little(0, 4) + little(count, 2) + little(count, 2) +
         little(directory.size(), 4) + little(file.size(), 4) + little(0, 2);
}
inline Member stored(const std::string& name, const std::string& array) { return {name, array, array.size()}; }

inline std::string png_chunk(const std::string& type, const std::string& content) {
  const std::string summed = type + content;
  return big(static_cast<std::uint32_t>(content.size())) + summed +
         big(static_cast<std::uint32_t>(crc32_z(0, reinterpret_cast<const Bytef*>(summed.data()), summed.size())));
}
inline std::string png(std::uint32_t width, std::uint32_t height, int depth, int colour, const std::string& packed,
                       const std::string& before = "", int interlaced = 0) {
  return "\x89PNG\r\n\x1a\n" +
         png_chunk("IHDR",
                   big(width) + big(height) + char(depth) + char(colour) + std::string(2, '\0') + char(interlaced)) +
         before + png_chunk("IDAT", packed) + png_chunk("IEND", "");
}

}  // namespace attacks
