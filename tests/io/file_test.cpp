#include <vaelib/io/file.hpp>

#include <cerrno>
#include <string>
#include <vector>

#include "faults.hpp"

using namespace vaelib;
using namespace io_test;

namespace {
constexpr std::uint64_t plenty = 1 << 20;
}

TEST_CASE("a file written atomically holds its parts, one after another") {
  const TemporaryFolder folder;
  const std::string path = folder / "a.bin";
  write_file_atomically(path, "text", std::string("\0more", 5), std::vector<std::uint16_t>{0x4241, 0x4443});
  CHECK(read_file(path, plenty) == std::string("text\0moreABCD", 13));
  write_file_atomically(path);
  CHECK(read_file(path, plenty).empty());
  CHECK(names_in(folder.path) == std::vector<std::string>{"a.bin"});
  CHECK(names_in(folder / "none").empty());
  CHECK(contains(error_of([&] { list_folder(path); }), "Not a directory"));
}

TEST_CASE("a write is on the disk before it gets its name, and so is the name before the write is done") {
  const TemporaryFolder folder;
  count_operations([&] { write_file_atomically(folder / "a.bin", "text"); });
  CHECK(fault.operations == "open write fsync close rename open fsync close ");
  count_operations([&] { create_directories(folder / "new"); });
  CHECK(fault.operations == "stat stat mkdir open fsync close ");
}

TEST_CASE("reading is bounded, and refuses what is no regular file") {
  const TemporaryFolder folder;
  const std::string path = folder / "a.bin";
  write_raw(path, "12345");
  CHECK(read_file(path, 5) == "12345");
  CHECK(contains(error_of([&] { read_file(path, 4); }), "a.bin: has 5 bytes; at most 4"));
  CHECK(contains(error_of([&] { read_file(folder / "none", plenty); }), "No such file"));
  CHECK(contains(error_of([&] { read_file(folder.path, plenty); }), "is a folder"));
  CHECK(contains(error_of([&] { read_file("/dev/zero", plenty); }), "a regular file was expected"));
  const std::string pipe = folder / "pipe";
  REQUIRE(::mkfifo(pipe.c_str(), 0600) == 0);
  CHECK(contains(error_of([&] { read_file(pipe, plenty); }), "a regular file was expected"));
}

TEST_CASE("positions outside a file are refused, on disk and in memory") {
  const TemporaryFolder folder;
  const std::string path = folder / "a.bin";
  write_raw(path, "12345");
  const InputFile on_disk(path), in_memory("memory", "12345");
  for (const InputFile* file : {&on_disk, &in_memory}) {
    std::string got(3, '.');
    file->read_at(2, got.data(), 3);
    CHECK(got == "345");
    file->read_at(5, got.data(), 0);
    CHECK(contains(error_of([&] { file->read_at(3, got.data(), 3); }), "byte 3: expected 3 more bytes"));
    CHECK(contains(error_of([&] { file->read_at(~std::uint64_t{0}, got.data(), 2); }), "the end of the file at 5"));
  }
  REQUIRE(::truncate(path.c_str(), 3) == 0);
  std::string got(5, '.');
  CHECK(contains(error_of([&] { on_disk.read_at(0, got.data(), 5); }), "shortened"));
}

TEST_CASE("folders are made with those above them") {
  const TemporaryFolder folder;
  create_directories(folder / "a/b//c/");
  write_file_atomically(folder / "a/b/c/file", "x");
  create_directories(folder / "a/b");
  CHECK(contains(error_of([&] { create_directories(folder / "a/b/c/file"); }), "a file of that name exists"));
  CHECK(contains(error_of([&] { create_directories(folder / "a/b/c/file/d"); }), "Not a directory"));
  CHECK(contains(error_of([&] { create_directories(""); }), "cannot make this folder"));
  CHECK(contains(error_of([&] { create_directories(folder / std::string(1 << 20, '/') + std::string(5000, 'x')); }),
                 "cannot"));
}

TEST_CASE("a failed write leaves the old file, and no temporary one, whatever operation fails") {
  const TemporaryFolder folder;
  const std::string path = folder / "a.bin", old_content(1000, 'o'), new_content(3000, 'n');
  const auto write = [&] { write_file_atomically(path, new_content); };
  write_file_atomically(path, old_content);
  const int operations = count_operations(write);
  CHECK(operations >= 7);  // open, write, fsync, close, rename; open, fsync and close of the folder
  for (const int reason : {EIO, ENOSPC, EACCES}) {
    for (int at = 0; at < operations; ++at) {
      write_file_atomically(path, old_content);
      const bool thrown = throws_with_fault(reason, at, write);
      CAPTURE(fault.fired_at);
      REQUIRE(fault.fired);
      const std::string content = read_file(path, plenty);
      if (!thrown) CHECK(content == new_content);  // closing the folder, or one that cannot be read, changes nothing
      CHECK((content == old_content || content == new_content));
      CHECK(names_in(folder.path) == std::vector<std::string>{"a.bin"});
    }
  }
  std::string message;
  throws_with_fault(ENOSPC, 1, [&] { message = error_of(write); });
  CHECK(message == path + ": cannot write: No space left on device");
  write_file_atomically(path, old_content);
  throws_with_fault(EIO, 3, [&] { message = error_of(write); });
  CHECK(message == path + ": cannot close: Input/output error");
  CHECK(read_file(path, plenty) == old_content);
}

TEST_CASE("a disk that stays full keeps the old file") {
  const TemporaryFolder folder;
  const std::string path = folder / "a.bin";
  write_file_atomically(path, "old");
  for (int at = 0; at < 5; ++at) {
    CHECK(throws_with_fault(
        ENOSPC, at, [&] { write_file_atomically(path, "new"); }, true));
    CHECK(read_file(path, plenty) == "old");
  }
}

TEST_CASE("short counts and interruptions are gone through") {
  const TemporaryFolder folder;
  const std::string path = folder / "a.bin", content = "a content of forty bytes and a bit more";
  const auto work = [&] {
    write_file_atomically(path, content);
    CHECK(read_file(path, plenty) == content);
  };
  const int operations = count_operations(work);
  CHECK_FALSE(throws_with_fault(short_count, 0, work, true));
  CHECK(fault.seen > operations + 8);
  for (int at = 0; at < operations; ++at) {
    CHECK_FALSE(throws_with_fault(EINTR, at, work));
    CHECK(fault.fired);
  }
}

TEST_CASE("a kill at any operation leaves the old file or the new one") {
  const TemporaryFolder folder;
  const std::string path = folder / "a.bin";
  write_file_atomically(path, "old");
  int at = 0;
  bool replaced = false;
  while (killed_at(at, [&] { write_file_atomically(path, "new ", "content"); })) {
    const std::string content = read_file(path, plenty);
    CAPTURE(at);
    CHECK(content == (replaced || content != "old" ? "new content" : "old"));
    replaced = content != "old";
    ++at;
  }
  CHECK(at >= 7);
  CHECK(replaced);
}

TEST_CASE("a temporary file that a killed process left does not stop the next") {
  const TemporaryFolder folder;
  const std::string path = folder / "a.bin";
  write_raw(text(path, AtomicFile::temporary_mark, ::getpid(), ".0"), "left over");
  write_file_atomically(path, "new");
  CHECK(read_file(path, plenty) == "new");
}
