// TensorBoard event files: scalars, histograms and images of a run, written directly.
//
// A file is a row of records:
//   u64 length | u32 masked CRC-32C of the length | that many bytes | u32 masked CRC-32C of the bytes      little-endian
// each an Event in the protocol buffers' wire format (event.proto, summary.proto of TensorBoard). A process that is killed
// leaves at most one torn record, which readers skip; a run that goes on starts a file of its own in the same folder.
#pragma once

#include <vaelib/io/file.hpp>
#include <vaelib/io/protobuf.hpp>

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace vaelib::inline VAELIB_ABI {

namespace detail {

/// CRC-32C (Castagnoli), reflected, as iSCSI has it.
inline std::uint32_t crc32c(std::string_view bytes) {
  static constexpr auto table = [] {
    std::array<std::uint32_t, 256> t{};
    for (std::uint32_t i = 0; i < 256; ++i) {
      t[i] = i;
      for (int bit = 0; bit < 8; ++bit) t[i] = t[i] & 1 ? t[i] >> 1 ^ 0x82f63b78u : t[i] >> 1;
    }
    return t;
  }();
  std::uint32_t crc = ~0u;
  for (const char c : bytes) crc = crc >> 8 ^ table[(crc ^ static_cast<unsigned char>(c)) & 255];
  return ~crc;
}

}  // namespace detail

/// One event file in a folder that TensorBoard watches: `tensorboard --logdir FOLDER`. Records are appended and seen at once.
class EventFile {
 public:
  /// Makes the folder where it is missing, and in it a new file.
  explicit EventFile(const std::string& folder) {
    create_directories(folder);
    char host[256] = "localhost";
    if (::gethostname(host, sizeof host - 1) != 0) std::strcpy(host, "localhost");
    char second[32];
    std::snprintf(second, sizeof second, "%010lld", static_cast<long long>(now()));
    for (int number = 0; number < 1000 && file.get() == -1; ++number) {
      name = text(folder, "/events.out.tfevents.", second, '.', host, '.', ::getpid(), '.', number);
      file = detail::Descriptor(detail::open_file(name, O_WRONLY | O_CREAT | O_EXCL));
      if (file.get() == -1 && errno != EEXIST) break;
    }
    if (file.get() == -1) detail::fail_with_errno(name, "make this file");
    detail::ProtobufMessage event, source;
    event.real(1, now());
    event.bytes(3, "brain.Event:2");
    source.bytes(1, "vaelib");
    event.message(10, source);
    append(event.encoded);
  }

  const std::string& path() const { return name; }

  void scalar(std::int64_t step, std::string_view tag, double value) {
    detail::ProtobufMessage v = summary_value(tag);
    v.real(2, static_cast<float>(value));
    summary(step, v);
  }

  /// The distribution of the finite ones of these values, in 30 buckets of equal width.
  void histogram(std::int64_t step, std::string_view tag, std::span<const float> values) {
    double low = INFINITY, high = -INFINITY, count = 0, sum = 0, squares = 0;
    for (const double x : values) {
      if (!std::isfinite(x)) continue;
      low = std::min(low, x), high = std::max(high, x);
      ++count, sum += x, squares += x * x;
    }
    constexpr int buckets = 30;
    std::vector<double> limits(buckets), counts(buckets);
    if (count == 0) low = high = 0;
    const double width = (high - low) / buckets;
    for (int b = 0; b < buckets; ++b) limits[b] = b + 1 < buckets && width > 0 ? low + (b + 1) * width : high;
    for (const double x : values)
      if (std::isfinite(x)) ++counts[width > 0 ? std::min(buckets - 1, static_cast<int>((x - low) / width)) : buckets - 1];
    detail::ProtobufMessage h, v = summary_value(tag);
    h.real(1, low), h.real(2, high), h.real(3, count), h.real(4, sum), h.real(5, squares);
    h.reals(6, limits), h.reals(7, counts);
    v.message(5, h);
    summary(step, v);
  }

  /// An image as the bytes of a PNG file: encode_png in io/png.hpp makes them. Channels: 1 grey, 3 colour.
  void image(std::int64_t step, std::string_view tag, int width, int height, int channels, std::span<const std::uint8_t> png) {
    detail::ProtobufMessage i, v = summary_value(tag);
    i.integer(1, static_cast<std::uint64_t>(height)), i.integer(2, static_cast<std::uint64_t>(width));
    i.integer(3, static_cast<std::uint64_t>(channels)), i.bytes(4, detail::bytes_of(png));
    v.message(4, i);
    summary(step, v);
  }

 private:
  static double now() { return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count(); }

  static detail::ProtobufMessage summary_value(std::string_view tag) {
    detail::ProtobufMessage v;
    v.bytes(1, tag);
    return v;
  }
  void summary(std::int64_t step, const detail::ProtobufMessage& value) {
    detail::ProtobufMessage event, all;
    all.message(1, value);
    event.real(1, now());
    event.integer(2, static_cast<std::uint64_t>(step));
    event.message(5, all);
    append(event.encoded);
  }
  void append(const std::string& event) {
    const std::uint64_t length = event.size();
    std::string record(reinterpret_cast<const char*>(&length), 8);
    add_checksum(record, record);
    record += event;
    add_checksum(record, event);
    const char* bytes = record.data();
    for (std::size_t left = record.size(); left > 0;) {
      const ssize_t written = detail::write_some(file.get(), bytes, left);
      if (written == 0) errno = ENOSPC;
      if (written <= 0) detail::fail_with_errno(name, "write");
      bytes += written;
      left -= static_cast<std::size_t>(written);
    }
  }
  static void add_checksum(std::string& record, const std::string& of) {
    const std::uint32_t crc = detail::crc32c(of), masked = (crc >> 15 | crc << 17) + 0xa282ead8u;
    record.append(reinterpret_cast<const char*>(&masked), 4);
  }

  std::string name;
  detail::Descriptor file;
};

}  // namespace vaelib::inline VAELIB_ABI
