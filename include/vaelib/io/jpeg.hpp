// JPEG files, by libjpeg (link -ljpeg). Not part of vae.hpp.
//
// libjpeg leaves by longjmp: between it and setjmp stand plain C values only. What libjpeg merely warns of (data cut off, foreign
// bytes) is an Error here, for it would otherwise be learned from as grey areas.
#pragma once

#include <vaelib/core/error.hpp>
#include <vaelib/io/file.hpp>
#include <vaelib/io/image.hpp>

#include <csetjmp>
#include <cstdint>
#include <cstdio>
#include <span>
#include <string>

#include <jpeglib.h>  // wants <cstdio> before it

namespace vaelib::inline VAELIB_ABI {

namespace detail {

class JpegDecoder {
 public:
  explicit JpegDecoder(std::span<const std::uint8_t> file) {
    info.err = jpeg_std_error(&errors);
    info.client_data = this;
    errors.error_exit = [](j_common_ptr c) { self(c).give_up(c); };
    errors.emit_message = [](j_common_ptr c, int level) {
      if (level < 0) self(c).give_up(c);
    };
    progress.progress_monitor = [](j_common_ptr c) {  // a small progressive file may ask for millions of scans
      if (reinterpret_cast<j_decompress_ptr>(c)->input_scan_number > 200) self(c).give_up(c, "more than 200 scans");
    };
    started = run([](JpegDecoder& d, const void* bytes, std::size_t size) {
      jpeg_create_decompress(&d.info);
      d.info.progress = &d.progress;
      jpeg_mem_src(&d.info, static_cast<const unsigned char*>(bytes), static_cast<unsigned long>(size));
      jpeg_read_header(&d.info, TRUE);
      d.info.out_color_space = d.info.num_components == 1 ? JCS_GRAYSCALE : JCS_RGB;
    }, file.data(), file.size());
  }
  JpegDecoder(const JpegDecoder&) = delete;
  JpegDecoder& operator=(const JpegDecoder&) = delete;
  ~JpegDecoder() { jpeg_destroy_decompress(&info); }

  bool good() const { return started; }
  std::uint64_t width() const { return info.image_width; }
  std::uint64_t height() const { return info.image_height; }
  int channels() const { return info.num_components == 1 ? 1 : 3; }

  /// Bytes that libjpeg keeps while it decodes: a file of several scans is put together in memory.
  std::uint64_t memory() {
    std::uint64_t bytes = 0;
    if (jpeg_has_multiple_scans(&info))
      for (int c = 0; c < info.num_components; ++c)
        bytes += std::uint64_t{info.comp_info[c].width_in_blocks} * info.comp_info[c].height_in_blocks * sizeof(JBLOCK);
    return bytes;
  }

  /// The next row, channels last; false where the file is damaged.
  bool read_row(std::uint8_t* pixels) {
    return run([](JpegDecoder& d, const void* to, std::size_t) {
      if (d.info.output_scanline == 0) jpeg_start_decompress(&d.info);
      auto row = static_cast<JSAMPROW>(const_cast<void*>(to));
      jpeg_read_scanlines(&d.info, &row, 1);
      if (d.info.output_scanline == d.info.output_height) jpeg_finish_decompress(&d.info);
    }, pixels, 0);
  }
  const char* message() const { return text; }

 private:
  static JpegDecoder& self(j_common_ptr c) { return *static_cast<JpegDecoder*>(c->client_data); }

  /// Calls f; false where it left by give_up.
  bool run(void (*f)(JpegDecoder&, const void*, std::size_t), const void* data, std::size_t size) {
    if (setjmp(back)) return false;
    f(*this, data, size);
    return true;
  }
  [[noreturn]] void give_up(j_common_ptr c, const char* reason = nullptr) {
    if (reason) {
      std::snprintf(text, sizeof text, "%s", reason);
    } else {
      errors.format_message(c, text);
    }
    std::longjmp(back, 1);
  }

  jpeg_decompress_struct info{};
  jpeg_error_mgr errors{};
  jpeg_progress_mgr progress{};
  std::jmp_buf back;
  char text[JMSG_LENGTH_MAX] = "";
  bool started = false;
};

}  // namespace detail

/// The image in the bytes of a JPEG file: 1 channel for grey files, 3 for all others. `name` is what an error calls it.
inline Image decode_jpeg(std::span<const std::uint8_t> file, const std::string& name = "JPEG") {
  detail::JpegDecoder decoder(file);
  if (!decoder.good()) fail(name, ": no valid JPEG file: ", decoder.message());
  if (decoder.width() * decoder.height() > largest_image)
    fail(name, ": ", decoder.width(), " x ", decoder.height(), " pixels, at most ", largest_image, " expected");
  const std::uint64_t row = decoder.width() * decoder.channels();
  if (row * decoder.height() + decoder.memory() > largest_unpacked(file.size()))
    fail(name, ": ", decoder.width(), " x ", decoder.height(), " pixels are more than is expected of ", file.size(), " bytes");
  Image image{static_cast<int>(decoder.width()), static_cast<int>(decoder.height()), decoder.channels(), {}};
  image.pixels.reserve(row * decoder.height());  // and filled row by row: a file that is cut off takes no memory for the rest
  for (std::uint64_t y = 1; y <= decoder.height(); ++y) {
    image.pixels.resize(row * y);
    if (!decoder.read_row(image.pixels.data() + row * (y - 1))) fail(name, ": no valid JPEG file: ", decoder.message());
  }
  return image;
}

inline Image read_jpeg(const std::string& path) {
  const std::string file = read_file(path, std::uint64_t{1} << 28);
  return decode_jpeg({reinterpret_cast<const std::uint8_t*>(file.data()), file.size()}, path);
}

}  // namespace vaelib::inline VAELIB_ABI
