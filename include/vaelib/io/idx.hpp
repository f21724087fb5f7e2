// IDX files, the format of MNIST (Y. LeCun): bytes 0, 0, type, number of dimensions; each extent as a big-endian u32;
// the values in C order. Unsigned bytes (type 8) only. Plain, or compressed by gzip, which is recognised by its
// content.
//
// The extents are checked against the file's true size before memory is taken: exactly for a plain file, by
// largest_unpacked for a compressed one, which is inflated up to the declared size and no further. (Link: -lz)
#pragma once

#include <vaelib/core/error.hpp>
#include <vaelib/io/file.hpp>

#include <zlib.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <vector>

namespace vaelib::inline VAELIB_ABI {

struct IdxArray {
  std::vector<std::uint32_t> shape;
  std::vector<std::uint8_t> values;
};

namespace detail {

/// The bytes of a plain file, one after another.
class PlainBytes {
 public:
  explicit PlainBytes(const InputFile& input) : file(input) {}
  void read(std::uint8_t* to, std::size_t count) {
    file.read_at(position, to, count);
    position += count;
  }
  /// Fails unless `count` bytes are left, no more and no less.
  [[gnu::cold]] void expect_left(std::uint64_t count) const {
    if (file.size() - position != count)
      fail(file.path(), ": the extents need ", count, " bytes of values, the file has ", file.size() - position);
  }
  void expect_end() const {}

 private:
  const InputFile& file;
  std::uint64_t position = 0;
};

/// The bytes of a gzip file (one member), inflated one after another.
class GzipBytes {
 public:
  [[gnu::cold]] explicit GzipBytes(const InputFile& input) : file(input) {
    constexpr int gzip_only = 16 + MAX_WBITS;
    if (inflateInit2(&stream, gzip_only) != Z_OK) fail(file.path(), ": zlib could not be started");
  }
  GzipBytes(const GzipBytes&) = delete;
  GzipBytes& operator=(const GzipBytes&) = delete;
  ~GzipBytes() { inflateEnd(&stream); }

  void read(std::uint8_t* to, std::size_t count) {
    while (count > 0) {
      const std::size_t got = inflate_some(to, count);
      if (got == 0) fail(file.path(), ": expected ", count, " more bytes of values, found the end of the gzip data");
      to += got;
      count -= got;
    }
  }
  /// Fails where `count` bytes are more than a file of this size may fill.
  [[gnu::cold]] void expect_left(std::uint64_t count) const {
    if (count > largest_unpacked(file.size()))
      fail(file.path(), ": the extents need ", count, " bytes of values, at most ", largest_unpacked(file.size()), " are expected of ", file.size(),
           " bytes of gzip data; where they are right, gunzip the file");
  }
  [[gnu::cold]] void expect_end() {
    std::uint8_t excess = 0;
    if (inflate_some(&excess, 1) > 0) fail(file.path(), ": has more values than its extents declare");
    if (next_block < file.size() || stream.avail_in > 0) fail(file.path(), ": has foreign bytes behind the gzip data");
  }

 private:
  /// Inflates up to `count` bytes; 0 at the end of the gzip data, whose checksum zlib has then compared.
  std::size_t inflate_some(std::uint8_t* to, std::size_t count) {
    const auto part = static_cast<uInt>(std::min<std::size_t>(count, std::numeric_limits<uInt>::max()));
    stream.next_out = to;
    stream.avail_out = part;
    while (!ended && stream.avail_out == part) {
      if (stream.avail_in == 0) refill();
      const int status = inflate(&stream, Z_NO_FLUSH);
      ended = status == Z_STREAM_END;
      if (status == Z_MEM_ERROR) fail(file.path(), ": not enough memory to inflate");
      if (status != Z_OK && status != Z_STREAM_END)
        fail(file.path(), ": near byte ", next_block - stream.avail_in, ": the gzip data are damaged (",
             stream.msg ? stream.msg : "unexpected content", ")");
    }
    return part - stream.avail_out;
  }
  [[gnu::cold]] void refill() {
    const auto part = static_cast<std::size_t>(std::min<std::uint64_t>(block.size(), file.size() - next_block));
    if (part == 0) fail(file.path(), ": is truncated: the gzip data have no end");
    file.read_at(next_block, block.data(), part);
    next_block += part;
    stream.next_in = block.data();
    stream.avail_in = static_cast<uInt>(part);
  }

  const InputFile& file;
  z_stream stream{};
  std::array<std::uint8_t, 65536> block;
  std::uint64_t next_block = 0;
  bool ended = false;
};

inline constexpr std::size_t idx_most_dimensions = 8;

[[gnu::cold]] inline std::uint64_t idx_count(const std::vector<std::uint32_t>& shape, const std::string& path) {
  std::uint64_t count = 1;
  for (const std::uint32_t extent : shape) {
    if (extent != 0 && count > std::numeric_limits<std::uint64_t>::max() / extent)
      fail(path, ": the product of the extents is above 2^64 - 1");
    count *= extent;
  }
  return count;
}

/// Reads the extents, checks them against what is left of `bytes`, then reads the values.
template <class Bytes>
[[gnu::cold]] IdxArray read_idx_from(Bytes&& bytes, const std::string& path) {
  std::array<std::uint8_t, 4> magic{};
  bytes.read(magic.data(), magic.size());
  if (magic[0] != 0 || magic[1] != 0)
    fail(path, ": byte 0: is no IDX file: expected two zero bytes, found ", int{magic[0]}, " and ", int{magic[1]});
  if (magic[2] != 8) fail(path, ": byte 2: expected values of type 8 (unsigned bytes), found type ", int{magic[2]});
  if (magic[3] < 1 || magic[3] > idx_most_dimensions)
    fail(path, ": byte 3: expected 1 to ", idx_most_dimensions, " dimensions, found ", int{magic[3]});
  IdxArray array;
  array.shape.resize(magic[3]);
  for (std::uint32_t& extent : array.shape) {
    std::array<std::uint8_t, 4> big{};
    bytes.read(big.data(), big.size());
    extent = std::uint32_t{big[0]} << 24 | std::uint32_t{big[1]} << 16 | std::uint32_t{big[2]} << 8 | big[3];
  }
  const std::uint64_t count = idx_count(array.shape, path);
  bytes.expect_left(count);
  array.values.resize(static_cast<std::size_t>(count));
  bytes.read(array.values.data(), array.values.size());
  bytes.expect_end();
  return array;
}

}  // namespace detail

[[gnu::cold]] inline IdxArray read_idx(const InputFile& file) {
  const std::string& path = file.path();
  if (file.size() < 5) fail(path, ": is no IDX file: it has only ", file.size(), " bytes");
  std::array<std::uint8_t, 2> magic{};
  file.read_at(0, magic.data(), magic.size());
  if (magic[0] == 0x1F && magic[1] == 0x8B) return detail::read_idx_from(detail::GzipBytes(file), path);
  return detail::read_idx_from(detail::PlainBytes(file), path);
}
inline IdxArray read_idx(const std::string& path) { return read_idx(InputFile(path)); }

/// Writes a plain IDX file of unsigned bytes.
[[gnu::cold]] inline void write_idx(const std::string& path, const std::vector<std::uint32_t>& shape,
                      std::span<const std::uint8_t> values) {
  if (shape.empty() || shape.size() > detail::idx_most_dimensions)
    fail(path, ": IDX files have 1 to ", detail::idx_most_dimensions, " dimensions, not ", shape.size());
  std::vector<std::uint8_t> header{0, 0, 8, static_cast<std::uint8_t>(shape.size())};
  if (detail::idx_count(shape, path) != values.size())
    fail(path, ": the extents need ", detail::idx_count(shape, path), " values, not ", values.size());
  for (const std::uint32_t extent : shape)
    for (const int shift : {24, 16, 8, 0}) header.push_back(static_cast<std::uint8_t>(extent >> shift));
  write_file_atomically(path, header, values);
}

}  // namespace vaelib::inline VAELIB_ABI
