// .npz, NumPy's zip files of .npy arrays (savez, savez_compressed). Entries are found by the central directory; a name never
// becomes a path. What an entry declares of its size bounds what is inflated. Encrypted entries and other methods than
// stored and deflate are refused. (Link: -lz)
#pragma once

#include <vaelib/io/json.hpp>
#include <vaelib/io/npy.hpp>

namespace vaelib::inline VAELIB_ABI {

namespace detail {

struct ZipEntry {
  std::string name;
  std::uint64_t packed = 0, size = 0, local_header = 0;
  std::uint32_t checksum = 0;
  bool deflated = false;
};

/// Little-endian numbers of a piece of a zip file.
struct ZipBytes {
  const std::string& path;
  std::string bytes;

  ZipBytes(const InputFile& file, std::uint64_t position, std::uint64_t count) : path(file.path()), bytes(static_cast<std::size_t>(count), '\0') {
    file.read_at(position, bytes.data(), bytes.size());
  }
  std::uint64_t number(std::size_t place, std::size_t width) const {
    if (place > bytes.size() || width > bytes.size() - place) fail(path, ": is a damaged zip file: an entry of its directory is cut off");
    std::uint64_t value = 0;
    for (std::size_t i = 0; i < width; ++i) value |= std::uint64_t{static_cast<unsigned char>(bytes[place + i])} << 8 * i;
    return value;
  }
};

/// One entry of the central directory at `place`, which moves behind it.
inline ZipEntry zip_entry(const ZipBytes& directory, std::size_t& place) {
  const std::string& path = directory.path;
  if (directory.number(place, 4) != 0x02014b50) fail(path, ": is a damaged zip file: its directory has a foreign entry");
  const std::uint64_t flags = directory.number(place + 8, 2), method = directory.number(place + 10, 2);
  const std::size_t name = directory.number(place + 28, 2), extra = directory.number(place + 30, 2), comment = directory.number(place + 32, 2);
  ZipEntry entry;
  entry.checksum = static_cast<std::uint32_t>(directory.number(place + 16, 4));
  directory.number(place + 46, 0);
  directory.number(place + 46 + name + extra + comment, 0);
  entry.name = directory.bytes.substr(place + 46, name);
  if (flags & 1) fail(path, ": entry ", shown(entry.name), " is encrypted");
  if (method != 0 && method != 8) fail(path, ": entry ", shown(entry.name), " has compression method ", method, "; stored (0) and deflate (8) are known");
  entry.deflated = method == 8;
  entry.packed = directory.number(place + 20, 4);
  entry.size = directory.number(place + 24, 4);
  entry.local_header = directory.number(place + 42, 4);
  for (std::size_t at = place + 46 + name, end = at + extra; at + 4 <= end;) {  // sizes above 4 GB stand in an extra field
    const std::size_t length = directory.number(at + 2, 2);
    std::size_t value = at + 4;
    if (directory.number(at, 2) == 1)
      for (std::uint64_t* wide : {&entry.size, &entry.packed, &entry.local_header})
        if (*wide == 0xffffffff && value + 8 <= at + 4 + length) {
          *wide = directory.number(value, 8);
          value += 8;
        }
    at += 4 + length;
  }
  place += 46 + name + extra + comment;
  return entry;
}

inline std::vector<ZipEntry> zip_entries(const InputFile& file) {
  constexpr std::uint64_t end_size = 22, longest_comment = 65535, largest_directory = 16'000'000;
  const std::uint64_t tail_size = std::min(file.size(), end_size + longest_comment);
  const ZipBytes tail(file, file.size() - tail_size, tail_size);
  const std::size_t end = tail.bytes.rfind("PK\x05\x06");
  if (end == std::string::npos || tail_size - end < end_size) fail(file.path(), ": is no zip file, or one that is cut off: it has no directory");
  const std::uint64_t count = tail.number(end + 10, 2), size = tail.number(end + 12, 4), position = tail.number(end + 16, 4);
  if (size > largest_directory || position > file.size() || size > file.size() - position)
    fail(file.path(), ": is a damaged zip file: a directory of ", size, " bytes at byte ", position, " of ", file.size());
  const ZipBytes directory(file, position, size);
  std::vector<ZipEntry> entries;
  for (std::size_t place = 0; entries.size() < count;) entries.push_back(zip_entry(directory, place));
  std::vector<std::string_view> names;
  for (const ZipEntry& entry : entries) names.push_back(entry.name);
  std::sort(names.begin(), names.end());
  if (const auto twice = std::adjacent_find(names.begin(), names.end()); twice != names.end())
    fail(file.path(), ": two entries have the name ", shown(*twice));  // other readers would take the other one
  return entries;
}

/// The content of an entry, one piece after another.
class ZipContent {
 public:
  ZipContent(const InputFile& input, const ZipEntry& e) : file(input), entry(e), left(e.packed) {
    const ZipBytes header(file, entry.local_header, 30);
    if (header.number(0, 4) != 0x04034b50) fail(file.path(), ": entry ", shown(entry.name), ": no entry at byte ", entry.local_header);
    const ZipBytes own_name(file, entry.local_header + 30, header.number(26, 2));
    if (own_name.bytes != entry.name)
      fail(file.path(), ": entry ", shown(entry.name), ": is called ", shown(own_name.bytes), " at byte ", entry.local_header);
    position = entry.local_header + 30 + own_name.bytes.size() + header.number(28, 2);
    if (position > file.size() || entry.packed > file.size() - position) fail(file.path(), ": entry ", shown(entry.name), ": is cut off");
    if (entry.deflated ? entry.size / 1032 > entry.packed : entry.size != entry.packed)
      fail(file.path(), ": entry ", shown(entry.name), ": ", entry.packed, " bytes cannot hold the ", entry.size, " bytes that are declared");
    if (entry.deflated && inflateInit2(&stream, -MAX_WBITS) != Z_OK) fail(file.path(), ": zlib could not be started");
  }
  ZipContent(const ZipContent&) = delete;
  ZipContent& operator=(const ZipContent&) = delete;
  ~ZipContent() {
    if (entry.deflated) inflateEnd(&stream);
  }

  void take(void* to, std::size_t count) {
    if (entry.deflated) {
      inflate_all(static_cast<Bytef*>(to), count);
    } else {
      file.read_at(position, to, count);
      position += count;
    }
    checksum = crc32_z(checksum, static_cast<const Bytef*>(to), count);
  }
  void check_end() const {
    if (checksum != entry.checksum) fail(file.path(), ": entry ", shown(entry.name), ": is damaged: its checksum is ", entry.checksum, ", that of its content ", checksum);
  }

 private:
  void inflate_all(Bytef* to, std::size_t count) {
    while (count > 0) {
      if (stream.avail_in == 0) {
        const auto part = static_cast<std::size_t>(std::min<std::uint64_t>(sizeof block, left));
        if (part == 0) fail(file.path(), ": entry ", shown(entry.name), ": its compressed data end too early");
        file.read_at(position, block, part);
        position += part, left -= part;
        stream.next_in = block, stream.avail_in = static_cast<uInt>(part);
      }
      const auto part = static_cast<uInt>(std::min<std::size_t>(count, 1u << 30));
      stream.next_out = to, stream.avail_out = part;
      const int status = inflate(&stream, Z_NO_FLUSH);
      const uInt got = part - stream.avail_out;
      to += got, count -= got;
      if (status != Z_OK && !(status == Z_STREAM_END && count == 0))
        fail(file.path(), ": entry ", shown(entry.name), ": its compressed data are damaged or too short");
    }
  }

  const InputFile& file;
  const ZipEntry& entry;
  std::uint64_t position = 0, left;
  z_stream stream{};
  Bytef block[16384];
  uLong checksum = 0;
};

}  // namespace detail

/// The names of the arrays in an .npz file.
inline std::vector<std::string> npz_names(const InputFile& file) {
  std::vector<std::string> names;
  for (const auto& entry : detail::zip_entries(file))
    if (entry.name.ends_with(".npy")) names.push_back(entry.name.substr(0, entry.name.size() - 4));
  return names;
}
inline std::vector<std::string> npz_names(const std::string& path) { return npz_names(InputFile(path)); }

/// One array of an .npz file by its name. A compressed one may have `values_per_byte` values for each byte of the file, which
/// counts as 2^20 bytes where it has fewer: a small file cannot take much memory. (12 floats: largest_unpacked.)
inline NpyArray read_npz(const InputFile& file, const std::string& name, std::uint64_t values_per_byte = 12) {
  const std::string& path = file.path();
  for (const auto& entry : detail::zip_entries(file)) {
    if (entry.name != name + ".npy") continue;
    detail::ZipContent content(file, entry);
    const std::uint64_t most = values_per_byte * std::max(file.size(), std::uint64_t{1} << 20);
    NpyArray array = detail::read_npy_from([&](void* to, std::size_t count) { content.take(to, count); }, entry.size, most, path + ": " + shown(name));
    content.check_end();
    return array;
  }
  fail(path, ": has no array ", shown(name));
}
inline NpyArray read_npz(const std::string& path, const std::string& name, std::uint64_t values_per_byte = 12) {
  return read_npz(InputFile(path), name, values_per_byte);
}

/// An array to be written into an .npz file: floats, or whole numbers.
struct NpzArray {
  std::string name;
  std::vector<std::int64_t> shape;
  std::span<const float> values{};
  std::span<const std::int64_t> numbers{};  ///< where there are no values
};

/// Writes arrays as numpy.savez does, not compressed.
[[gnu::cold]] inline void write_npz(const std::string& path, const std::vector<NpzArray>& arrays) {
  const auto put = [](std::string& to, std::uint64_t value, int bytes) {
    for (int i = 0; i < bytes; ++i, value >>= 8) to += static_cast<char>(value & 255);
  };
  std::string directory;
  std::uint64_t position = 0;
  AtomicFile file(path);
  for (const auto& array : arrays) {
    const std::string name = array.name + ".npy";
    const bool whole = array.values.empty() && !array.numbers.empty();
    const std::string header = detail::npy_header(path, whole ? "<i8" : "<f4", array.shape, whole ? array.numbers.size() : array.values.size());
    const std::string_view values = whole ? detail::bytes_of(array.numbers) : detail::bytes_of(array.values);
    const std::uint64_t size = header.size() + values.size();
    if (position + size > 0xf0000000) fail(path, ": more than 4 GB do not go into this kind of zip file");
    const uLong checksum = crc32_z(crc32_z(0, reinterpret_cast<const Bytef*>(header.data()), header.size()), reinterpret_cast<const Bytef*>(values.data()), values.size());
    std::string entry;  // what the local header and the directory have in common
    put(entry, 20, 2), put(entry, 0, 4), put(entry, 0, 2), put(entry, 33, 2);  // version; flags and method; time; 1 January 1980
    put(entry, checksum, 4), put(entry, size, 4), put(entry, size, 4), put(entry, name.size(), 2), put(entry, 0, 2);
    const std::string local = "PK\x03\x04" + entry + name;
    put(directory += "PK\x01\x02", 20, 2);
    directory += entry;
    put(directory, 0, 10), put(directory, position, 4);
    directory += name;
    for (const std::string_view part : {std::string_view(local), std::string_view(header), values}) file.write(part.data(), part.size());
    position += local.size() + size;
  }
  std::string end = "PK\x05\x06";
  put(end, 0, 4), put(end, arrays.size(), 2), put(end, arrays.size(), 2), put(end, directory.size(), 4), put(end, position, 4), put(end, 0, 2);
  file.write(directory.data(), directory.size());
  file.write(end.data(), end.size());
  file.flush_and_close();
  file.publish();
}

}  // namespace vaelib::inline VAELIB_ABI
