#include <vaelib/io/idx.hpp>

#include <string>
#include <vector>

#include "faults.hpp"

using namespace vaelib;
using namespace io_test;

namespace {

std::string idx(const std::vector<std::uint32_t>& shape, std::string_view values, char type = 8) {
  std::string content{'\0', '\0', type, static_cast<char>(shape.size())};
  for (const std::uint32_t extent : shape)
    for (const int shift : {24, 16, 8, 0}) content += static_cast<char>(extent >> shift & 255);
  return content + std::string(values);
}

std::string gzip(const std::string& content) {
  z_stream stream{};
  REQUIRE(deflateInit2(&stream, 9, Z_DEFLATED, 16 + MAX_WBITS, 8, Z_DEFAULT_STRATEGY) == Z_OK);
  std::string result(deflateBound(&stream, content.size()), '\0');
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(content.data()));
  stream.avail_in = static_cast<uInt>(content.size());
  stream.next_out = reinterpret_cast<Bytef*>(result.data());
  stream.avail_out = static_cast<uInt>(result.size());
  REQUIRE(deflate(&stream, Z_FINISH) == Z_STREAM_END);
  result.resize(stream.total_out);
  deflateEnd(&stream);
  return result;
}

struct Files {
  TemporaryFolder folder;
  std::string path = folder / "f";

  IdxArray read(const std::string& content) const {
    write_raw(path, content);
    return read_idx(path);
  }
  std::string error(const std::string& content) const {
    return error_of([&] { read(content); });
  }
};

}  // namespace

TEST_CASE("plain and compressed files hold the same") {
  const Files files;
  const std::string content = idx({2, 3}, "abcdef");
  for (const std::string& form : {content, gzip(content)}) {
    const IdxArray array = files.read(form);
    CHECK(array.shape == std::vector<std::uint32_t>{2, 3});
    CHECK(array.values == std::vector<std::uint8_t>{'a', 'b', 'c', 'd', 'e', 'f'});
  }
  for (const std::string& form : {idx({0, 7}, ""), gzip(idx({0, 7}, ""))}) CHECK(files.read(form).values.empty());
  CHECK(files.read(idx({1, 1, 1, 1, 1, 1, 1, 1}, "x")).shape.size() == 8);
  const std::string large(300000, 'z');
  CHECK(files.read(gzip(idx({300, 1000}, large))).values.size() == 300000);
}

TEST_CASE("what is written is read again") {
  const Files files;
  const std::vector<std::uint8_t> values{0, 1, 254, 255, 7, 8};
  write_idx(files.path, {1, 2, 3}, values);
  CHECK(read_idx(files.path).shape == std::vector<std::uint32_t>{1, 2, 3});
  CHECK(read_idx(files.path).values == values);
  CHECK(read_file(files.path, 100) ==
        idx({1, 2, 3}, std::string_view(reinterpret_cast<const char*>(values.data()), 6)));
  CHECK(contains(error_of([&] { write_idx(files.path, {7}, values); }), "need 7 values, not 6"));
  CHECK(contains(error_of([&] { write_idx(files.path, {}, values); }), "1 to 8 dimensions"));
  CHECK(contains(error_of([&] { write_idx(files.path, std::vector<std::uint32_t>(9, 1), values); }),
                 "1 to 8 dimensions"));
}

TEST_CASE("foreign and damaged plain files: one sentence each") {
  const Files files;
  CHECK(contains(files.error(""), "is no IDX file: it has only 0 bytes"));
  CHECK(contains(files.error("\x89PNG\r\n"), "byte 0: is no IDX file"));
  CHECK(
      contains(files.error(idx({1}, "x", 0x0D)), "byte 2: expected values of type 8 (unsigned bytes), found type 13"));
  CHECK(contains(files.error(idx({}, "x")), "byte 3: expected 1 to 8 dimensions, found 0"));
  CHECK(contains(files.error(idx(std::vector<std::uint32_t>(9, 1), "x")), "found 9"));
  CHECK(contains(files.error(idx({2, 3}, "abcde")), "the extents need 6 bytes of values, the file has 5"));
  CHECK(contains(files.error(idx({2, 3}, "abcdefg")), "the extents need 6 bytes of values, the file has 7"));
  CHECK(contains(files.error(idx({~0u, ~0u}, "x")), "the file has 1"));
  CHECK(contains(files.error(idx({1u << 31, 1u << 31, 4}, "")), "above 2^64"));  // wraps to 0
  const std::string whole = idx({2, 3}, "abcdef");
  for (std::size_t size = 0; size < whole.size(); ++size) CHECK(files.error(whole.substr(0, size)) != "");
}

TEST_CASE("damaged compressed files: one sentence each") {
  const Files files;
  const std::string values(1000, 'v'), content = idx({10, 100}, values), whole = gzip(content);
  for (std::size_t size = 2; size < whole.size(); ++size) {
    CAPTURE(size);
    CHECK(files.error(whole.substr(0, size)) != "");
  }
  CHECK(contains(files.error(whole.substr(0, whole.size() - 4)), "is truncated"));
  CHECK(contains(files.error(whole + "x"), "foreign bytes behind"));
  CHECK(contains(files.error(whole + std::string(100000, '\0')), "foreign bytes behind"));
  std::string block = whole;  // made as long as one block of the reader by a file name in the gzip header
  block[3] = 8;
  block.insert(10, std::string(65536 - whole.size() - 1, 'n') + '\0');
  CHECK(files.error(block) == "");
  CHECK(contains(files.error(block + "x"), "foreign bytes behind"));
  CHECK(contains(files.error(gzip(content + "x")), "more values than its extents declare"));
  CHECK(contains(files.error(gzip(idx({10, 100}, values.substr(1)))), "expected 1 more bytes"));
  CHECK(contains(files.error(gzip("hello world")), "is no IDX file"));
  CHECK(contains(files.error(gzip("")), "end of the gzip data"));
  for (std::size_t bit = 80; bit < whole.size() * 8; ++bit) {  // behind the gzip header: refused, or of no meaning
    std::string damaged = whole;
    damaged[bit / 8] = static_cast<char>(damaged[bit / 8] ^ (1 << bit % 8));
    const std::string error = files.error(damaged);
    CAPTURE(bit);
    if (error.empty()) CHECK(read_idx(files.path).values == std::vector<std::uint8_t>(1000, 'v'));
  }
}

TEST_CASE("Debian's Fashion-MNIST, where it is installed") {
  const std::string folder = "/usr/share/datasets/fashion-mnist/";
  if (::access((folder + "t10k-images-idx3-ubyte.gz").c_str(), R_OK) != 0) return;
  const IdxArray images = read_idx(folder + "t10k-images-idx3-ubyte.gz");
  const IdxArray labels = read_idx(folder + "t10k-labels-idx1-ubyte.gz");
  CHECK(images.shape == std::vector<std::uint32_t>{10000, 28, 28});
  CHECK(labels.shape == std::vector<std::uint32_t>{10000});
  CHECK(labels.values[0] == 9);
}
