// A folder of photographs (PNG and JPEG, by content) as a data set of one size: cut to the middle and scaled; kept in memory as
// bytes (image_folder), or decoded whenever they are asked for (image_files; FitOptions::read_ahead hides the time it takes).
//
//   photos/*.jpg                     no classes
//   photos/cats/*.jpg, photos/dogs/*.png     one class a subfolder, in the order of their names
//
// Files are taken in the order of their names, so that the same folder gives the same rows. What cannot be read is left out and
// told, never fatal. Not part of vae.hpp. (Link: -lpng -ljpeg)
#pragma once

#include <vaelib/data/dataset.hpp>
#include <vaelib/io/file.hpp>
#include <vaelib/io/jpeg.hpp>
#include <vaelib/io/png.hpp>
#include <vaelib/io/resize.hpp>

#include <algorithm>
#include <atomic>
#include <thread>

namespace vaelib::inline VAELIB_ABI {
namespace data {

struct ImageFolderOptions {
  int height = 64, width = 64, channels = 3;  ///< of every row
  int threads = 0;                            ///< that decode; 0: as many as there are processors
  std::uint64_t largest_file = std::uint64_t{1} << 26;  ///< bytes; larger ones are left out
};

struct SkippedFile {
  std::string path, reason;
};

struct ImageFolder {
  Dataset images;
  std::vector<std::string> class_names;  ///< the subfolders; empty where there are none
  std::vector<SkippedFile> skipped;
};

namespace detail {

struct ImageFile {
  std::string path;
  std::int32_t label;
};

inline bool is_folder(const std::string& path) {
  struct stat status {};
  return ::stat(path.c_str(), &status) == 0 && S_ISDIR(status.st_mode);
}
inline bool named_as_image(const std::string& name) {
  const std::size_t dot = name.rfind('.');
  std::string ending = dot == std::string::npos ? "" : name.substr(dot);
  for (char& c : ending) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  return ending == ".png" || ending == ".jpg" || ending == ".jpeg";
}

/// The image files of a folder in the order of their names.
inline void append_images(const std::string& folder, std::int32_t label, std::vector<ImageFile>& files) {
  auto names = list_folder(folder);
  std::sort(names.begin(), names.end());
  for (const auto& name : names)
    if (named_as_image(name)) files.push_back({folder + '/' + name, label});
}

inline Image read_row(const std::string& path, const ImageFolderOptions& options) {
  const std::string file = read_file(path, options.largest_file);
  const std::span<const std::uint8_t> bytes(reinterpret_cast<const std::uint8_t*>(file.data()), file.size());
  const Image image = file.starts_with("\xFF\xD8") ? decode_jpeg(bytes, path) : decode_png(bytes, path);
  return with_channels(resize(centre_crop(image, options.width, options.height), options.width, options.height), options.channels);
}

/// Decodes every file and calls take(its index, pixels), from several threads; the reasons of those that cannot be read.
std::vector<std::string> read_rows(const std::vector<ImageFile>& files, const ImageFolderOptions& options, auto&& take) {
  std::vector<std::string> reasons(files.size());
  std::atomic<std::size_t> next = 0;
  const auto work = [&] {
    for (std::size_t i = next++; i < files.size(); i = next++) try {
        take(i, read_row(files[i].path, options));
      } catch (const std::exception& error) {
        reasons[i] = error.what();
      }
  };
  const unsigned wanted = options.threads > 0 ? unsigned(options.threads) : std::thread::hardware_concurrency();
  std::vector<std::jthread> helpers;
  for (unsigned t = 1; t < wanted && t < files.size(); ++t) helpers.emplace_back(work);
  work();
  helpers.clear();  // joins
  return reasons;
}

/// The image files of a folder or of its subfolders, whose names are put into `classes`.
inline std::vector<ImageFile> find_images(const std::string& folder, const ImageFolderOptions& options, std::vector<std::string>& classes) {
  if (options.height < 1 || options.width < 1 || (options.channels != 1 && options.channels != 3))
    fail("image folder: rows of ", options.height, " x ", options.width, " x ", options.channels, ", expected 1 or 3 channels");
  if (!detail::is_folder(folder)) fail(folder, ": is no folder of images");
  for (auto& name : list_folder(folder))
    if (name[0] != '.' && is_folder(folder + '/' + name)) classes.push_back(name);
  std::sort(classes.begin(), classes.end());
  std::vector<ImageFile> files;
  if (classes.empty()) append_images(folder, 0, files);
  for (std::size_t label = 0; label < classes.size(); ++label)
    append_images(folder + '/' + classes[label], static_cast<std::int32_t>(label), files);
  if (files.empty()) fail(folder, ": has no file .png, .jpg or .jpeg, nor has a folder in it");
  return files;
}

inline void check_some_read(const std::string& folder, std::size_t kept, const std::vector<SkippedFile>& skipped) {
  if (kept == 0) fail(folder, ": none of its ", skipped.size(), " images can be read; the first: ", skipped[0].reason);
}

}  // namespace detail

inline ImageFolder image_folder(const std::string& folder, const ImageFolderOptions& options = {}) {
  ImageFolder result;
  const auto files = detail::find_images(folder, options, result.class_names);
  const auto row_size = static_cast<std::size_t>(Shape{options.height, options.width, options.channels}.size());
  std::vector<std::uint8_t> pixels(files.size() * row_size);
  const auto reasons = detail::read_rows(files, options, [&](std::size_t i, const Image& row) {
    std::copy(row.pixels.begin(), row.pixels.end(), pixels.begin() + static_cast<std::ptrdiff_t>(i * row_size));
  });
  std::vector<std::int32_t> labels;
  std::size_t kept = 0;
  for (std::size_t i = 0; i < files.size(); ++i) {
    if (!reasons[i].empty()) {
      result.skipped.push_back({files[i].path, reasons[i]});
      continue;
    }
    if (kept != i) std::copy_n(pixels.begin() + i * row_size, row_size, pixels.begin() + kept * row_size);
    labels.push_back(files[i].label);
    ++kept;
  }
  detail::check_some_read(folder, kept, result.skipped);
  pixels.resize(kept * row_size);
  if (result.class_names.empty()) labels.clear();
  result.images = {{options.height, options.width, options.channels}, std::move(pixels), std::move(labels), static_cast<int>(result.class_names.size())};
  return result;
}

/// The images of a folder, decoded each time they are asked for: for folders that do not fit into memory. A file that can no
/// longer be read then is an error.
class ImageFiles {
 public:
  std::vector<std::string> class_names;  ///< the subfolders; empty where there are none
  std::vector<SkippedFile> skipped;      ///< files that could not be read at the beginning

  /// Decodes every file once, so that what cannot be read is left out.
  explicit ImageFiles(const std::string& folder, const ImageFolderOptions& o = {}) : options(o) {
    const auto found = detail::find_images(folder, options, class_names);
    const auto reasons = detail::read_rows(found, options, [](std::size_t, const Image&) {});
    for (std::size_t i = 0; i < found.size(); ++i) {
      if (reasons[i].empty()) {
        files.push_back(found[i]);
      } else {
        skipped.push_back({found[i].path, reasons[i]});
      }
    }
    detail::check_some_read(folder, files.size(), skipped);
  }

  std::int64_t size() const { return static_cast<std::int64_t>(files.size()); }
  Shape shape() const { return {options.height, options.width, options.channels}; }
  int classes() const { return static_cast<int>(class_names.size()); }
  void fill(std::uint64_t /*epoch*/, std::span<const std::uint32_t> rows, float* features, std::int32_t* labels) const {
    const auto count = static_cast<std::size_t>(shape().size());
    detail::check_rows(rows, size());
    std::vector<detail::ImageFile> wanted;
    for (const std::uint32_t row : rows) wanted.push_back(files[row]);
    const auto reasons = detail::read_rows(wanted, options, [&](std::size_t i, const Image& image) {
      detail::convert_bytes(image.pixels.data(), count, features + i * count);
      if (labels && classes() > 0) labels[i] = wanted[i].label;
    });
    for (const auto& reason : reasons)
      if (!reason.empty()) fail(reason);
  }

 private:
  ImageFolderOptions options;
  std::vector<detail::ImageFile> files;
};

}  // namespace data
}  // namespace vaelib::inline VAELIB_ABI
