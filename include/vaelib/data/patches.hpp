// Patches of photographs: from a few large images as many small ones as are wanted, cut at random places, mirrored, and with their
// colours jittered. Other patches in every epoch unless `fixed`. Not part of vae.hpp. (Link: -lpng -ljpeg)
//
//   pixel = clamp((v - 1/2) contrast + 1/2 + brightness)      contrast in 1 +- jitter, brightness in +- jitter / 2, each the same for
//   a whole patch and all channels; then each channel times its own factor in 1 +- jitter / 2
#pragma once

#include <vaelib/data/image_folder.hpp>
#include <vaelib/data/shapes.hpp>

#include <cmath>
#include <memory>

namespace vaelib::inline VAELIB_ABI {
namespace data {

struct PatchOptions {
  int size = 32;                  ///< of a patch, both ways
  int channels = 3;
  std::uint32_t patches = 20'000; ///< an epoch
  int largest_side = 512;         ///< photographs are scaled down to it first
  bool flip = true;               ///< every other patch is mirrored
  float jitter = 0.2f;            ///< of the colours; 0: none
  std::uint64_t seed = 0;
  bool fixed = false;             ///< the same patches in every epoch, neither mirrored nor jittered
};

class Patches {
 public:
  std::vector<SkippedFile> skipped;  ///< files that could not be read, or are smaller than a patch

  /// Reads all images of a folder, its subfolders included; throws Error where none can be used.
  explicit Patches(const std::string& folder, const PatchOptions& o = {}) : options(o) {
    if (o.size < 1 || o.size > o.largest_side) fail("patches: the size is ", o.size, ", expected 1 to largest_side, ", o.largest_side);
    if (!(o.jitter >= 0 && o.jitter < 1)) fail("patches: the jitter is ", o.jitter, ", expected 0 or more and less than 1");
    if (o.patches == 0) fail("patches: an epoch has at least 1 patch");
    std::vector<std::string> classes;
    auto read = std::make_shared<std::vector<Image>>();
    for (const auto& file : detail::find_images(folder, {.channels = o.channels}, classes)) try {
        const std::string bytes = read_file(file.path, std::uint64_t{1} << 26);
        const std::span<const std::uint8_t> view(reinterpret_cast<const std::uint8_t*>(bytes.data()), bytes.size());
        Image image = with_channels(bytes.starts_with("\xFF\xD8") ? decode_jpeg(view, file.path) : decode_png(view, file.path), o.channels);
        const int side = std::max(image.width, image.height);
        const auto scaled = [&](int extent) { return std::max(1, int(std::int64_t{extent} * o.largest_side / side)); };
        if (side > o.largest_side) image = resize(image, scaled(image.width), scaled(image.height));
        if (std::min(image.width, image.height) < o.size)
          fail(file.path, ": is ", image.width, " x ", image.height, ", a patch is ", o.size, " x ", o.size);
        read->push_back(std::move(image));
      } catch (const std::exception& error) {
        skipped.push_back({file.path, error.what()});
      }
    detail::check_some_read(folder, read->size(), skipped);
    images = std::move(read);
  }

  std::size_t image_count() const { return images->size(); }
  /// The same photographs, other patches.
  Patches with(const PatchOptions& o) const {
    Patches other = *this;
    other.options.patches = o.patches;
    other.options.flip = o.flip;
    other.options.jitter = o.jitter;
    other.options.seed = o.seed;
    other.options.fixed = o.fixed;
    return other;
  }

  std::int64_t size() const { return options.patches; }
  int classes() const { return 0; }
  Shape shape() const { return {options.size, options.size, options.channels}; }
  void fill(std::uint64_t epoch, std::span<const std::uint32_t> rows, float* features, std::int32_t*) const {
    detail::check_rows(rows, size());
    for (std::size_t i = 0; i < rows.size(); ++i) cut(options.fixed ? 0 : epoch, rows[i], features + i * std::size_t(shape().size()));
  }

 private:
  static constexpr std::uint32_t stream = 252;  // of the patches' own random numbers

  void cut(std::uint64_t epoch, std::uint32_t row, float* out) const {
    RandomSequence numbers(RandomKey{.seed = options.seed, .step = epoch, .stream = stream, .ordinal = row & 0xffffffu});
    const Image& image = (*images)[numbers.below(std::uint32_t(images->size()))];
    const int n = options.size, channels = options.channels;
    const int left = int(numbers.below(std::uint32_t(image.width - n + 1))), top = int(numbers.below(std::uint32_t(image.height - n + 1)));
    const bool mirrored = numbers.next() >> 31 && options.flip && !options.fixed;
    const float jitter = options.fixed ? 0 : options.jitter;
    const auto around = [&](float middle, float width) { return middle + width * (2 * detail::unit_interval(numbers.next()) - 1); };
    const float contrast = around(1, jitter), brightness = around(0, jitter / 2);
    float factor[4] = {1, 1, 1, 1};
    for (int c = 0; c < channels; ++c) factor[c] = around(1, jitter / 2);
    for (int y = 0; y < n; ++y)
      for (int x = 0; x < n; ++x) {
        const std::uint8_t* pixel = image.at(left + (mirrored ? n - 1 - x : x), top + y);
        for (int c = 0; c < channels; ++c) {
          const float v = (detail::byte_values[pixel[c]] - 0.5f) * contrast + 0.5f + brightness;
          *out++ = jitter > 0 ? std::clamp(v * factor[c], 0.0f, 1.0f) : detail::byte_values[pixel[c]];
        }
      }
  }

  PatchOptions options;
  std::shared_ptr<const std::vector<Image>> images;
};

}  // namespace data
}  // namespace vaelib::inline VAELIB_ABI
