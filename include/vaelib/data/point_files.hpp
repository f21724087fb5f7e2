// Sets of points out of files, as a data set in memory.
//
//   FOLDER       a set a file (.ply, .xyz, or .npy of points x numbers), in the order of their names; where it has subfolders,
//                each is a class, in the order of their names
//   FILE.npy     sets x points x numbers; a point of which every number is NaN is padding. Points x numbers: one set
//   FILE.npz     `points`, sets x points x numbers, and `mask`, sets x points: 0 is padding, whatever stands there;
//                or `points`, of all sets one after another, x numbers, and `offsets` (where each set begins, and the end)
//                or `counts` (its points). `labels`, one a set, where there are classes
//   FILE.ply, FILE.xyz   one set
//
// Every set has at least one point, and all have points of as many finite numbers; else an Error names the set. Not part of
// vae.hpp. (Link: -lz)
#pragma once

#include <vaelib/data/point_sets.hpp>
#include <vaelib/io/npz.hpp>
#include <vaelib/io/point_files.hpp>
#include <vaelib/io/safetensors_header.hpp>

namespace vaelib::inline VAELIB_ABI {
namespace data {

struct PointFiles {
  PointClouds sets;
  std::vector<std::string> class_names;  ///< empty where there are no classes
};

namespace detail {

inline constexpr std::int64_t most_numbers_of_a_point = 1 << 16;

inline bool is_point_file(const std::string& path) { return path.ends_with(".ply") || path.ends_with(".xyz") || path.ends_with(".npy"); }

[[gnu::cold]] inline void check_sets(const std::string& path, const PointClouds& sets) {
  const auto width = std::size_t(sets.shape().size());
  for (std::int64_t s = 0; s < sets.size(); ++s) {
    const auto set = sets.set(s);
    if (set.empty()) fail(path, ": set ", s, " is empty; each has at least 1 point");
    for (std::size_t k = 0; k < set.size(); ++k)
      if (!std::isfinite(set[k])) fail(path, ": set ", s, ", point ", k / width, ": number ", k % width, " is ", set[k], ", expected a finite one");
  }
}

inline int width_of(const std::string& path, const std::vector<std::int64_t>& shape) {
  const auto width = shape.back();
  if (width < 1 || width > most_numbers_of_a_point) fail(path, ": is an array of shape ", shape_text(shape), ", expected points of 1 to ", most_numbers_of_a_point, " numbers");
  return int(width);
}

/// The points of one file, and how many numbers each has.
[[gnu::cold]] inline std::vector<float> read_set(const std::string& path, int& width) {
  width = 3;
  if (path.ends_with(".ply")) return read_ply(path);
  if (path.ends_with(".xyz")) return read_xyz(path);
  NpyArray array = read_npy(path);
  if (array.shape.size() != 2) fail(path, ": is an array of shape ", shape_text(array.shape), ", expected one set: points x numbers");
  width = width_of(path, array.shape);
  for (std::size_t k = 0; k < array.values.size(); ++k)
    if (!std::isfinite(array.values[k])) fail(path, ": row ", k / std::size_t(width), ": number ", k % std::size_t(width), " is ", array.values[k], ", expected a finite one");
  return std::move(array.values);
}

[[gnu::cold]] inline PointFiles sets_of_folder(const std::string& folder) {
  auto names = list_folder(folder);
  std::sort(names.begin(), names.end());
  std::vector<std::string> classes;
  struct stat status {};
  const auto is_folder = [&](const std::string& path) { return ::stat(path.c_str(), &status) == 0 && S_ISDIR(status.st_mode); };
  for (const auto& name : names)
    if (name[0] != '.' && is_folder(folder + '/' + name)) classes.push_back(name);
  int width = 0;
  std::string first;
  std::vector<float> points;
  std::vector<std::int64_t> offsets{0};
  std::vector<std::int32_t> labels;
  const auto add = [&](const std::string& path, std::size_t label) {
    int own = 0;
    const auto set = read_set(path, own);
    if (set.empty()) fail(path, ": is an empty set; each has at least 1 point");
    if (width == 0) width = own, first = path;
    if (own != width) fail(path, ": has points of ", own, " numbers, ", first, " of ", width);
    points.insert(points.end(), set.begin(), set.end());
    offsets.push_back(std::int64_t(points.size()) / width);
    if (!classes.empty()) labels.push_back(std::int32_t(label));
  };
  const auto add_all = [&](const std::string& path, const std::vector<std::string>& files, std::size_t label) {
    for (const auto& name : files)
      if (is_point_file(name) && name[0] != '.') add(path + '/' + name, label);
  };
  if (classes.empty()) add_all(folder, names, 0);
  for (std::size_t c = 0; c < classes.size(); ++c) {
    auto files = list_folder(folder + '/' + classes[c]);
    std::sort(files.begin(), files.end());
    add_all(folder + '/' + classes[c], files, c);
  }
  if (offsets.size() == 1) fail(folder, ": has no file .ply, .xyz or .npy, nor has a folder in it");
  return {PointClouds(width, std::move(points), std::move(offsets), std::move(labels), int(classes.size())), std::move(classes)};
}

/// A point of which every number is NaN is padding.
[[gnu::cold]] inline PointFiles sets_of_npy(const std::string& path) {
  const NpyArray file = read_npy(path);
  if (file.shape.size() != 2 && file.shape.size() != 3) fail(path, ": is an array of shape ", shape_text(file.shape), ", expected sets x points x numbers, or points x numbers");
  const int width = width_of(path, file.shape);
  const std::int64_t sets = file.shape.size() == 3 ? file.shape[0] : 1, points = file.shape[file.shape.size() - 2];
  std::vector<std::uint8_t> mask(file.values.size() / std::size_t(width));
  for (std::size_t k = 0; k < file.values.size(); ++k) mask[k / std::size_t(width)] |= std::uint8_t(!std::isnan(file.values[k]));
  return {PointClouds::of_padded(file.values, sets, points, width, mask), {}};
}

/// Whole numbers from `least` to `most`, out of the floats that arrays are read as.
[[gnu::cold]] inline std::vector<std::int64_t> whole_numbers(const std::string& path, const char* name, const NpyArray& array, std::int64_t least, std::int64_t most) {
  if (array.shape.size() != 1) fail(path, ": '", name, "' has shape ", shape_text(array.shape), ", expected one axis");
  std::vector<std::int64_t> result;
  for (const float v : array.values) {
    if (!(v >= float(least) && v <= float(most)) || v != std::floor(v)) fail(path, ": '", name, "' has the value ", v, " at ", result.size(), ", expected whole numbers from ", least, " to ", most);
    result.push_back(std::int64_t(v));
  }
  return result;
}

[[gnu::cold]] inline PointFiles sets_of_npz(const std::string& path) {
  constexpr std::int64_t exact = 1 << 24;  // the largest count that is surely a float
  const InputFile file(path);
  const auto names = npz_names(file);
  const auto has = [&](const char* name) { return std::find(names.begin(), names.end(), name) != names.end(); };
  if (!has("points") || has("mask") + has("offsets") + has("counts") != 1) fail(path, ": expected an array 'points' and one of 'mask', 'offsets' and 'counts'");
  NpyArray points = read_npz(file, "points");
  if (points.shape.size() != (has("mask") ? 3u : 2u)) fail(path, ": 'points' has shape ", shape_text(points.shape), has("mask") ? ", expected sets x points x numbers beside 'mask'" : ", expected points of all sets x numbers beside 'offsets' or 'counts'");
  const int width = width_of(path, points.shape);
  const auto labelled = [&](std::int64_t sets) {
    std::vector<std::int32_t> labels;
    if (!has("labels")) return labels;
    for (const auto label : whole_numbers(path, "labels", read_npz(file, "labels"), 0, 65535)) labels.push_back(std::int32_t(label));
    if (std::int64_t(labels.size()) != sets) fail(path, ": ", labels.size(), " 'labels' for ", sets, " sets");
    return labels;
  };
  std::vector<float> kept;
  std::vector<std::int64_t> offsets{0};
  if (has("mask")) {
    const NpyArray mask = read_npz(file, "mask");
    if (mask.shape.size() != 2 || mask.shape[0] != points.shape[0] || mask.shape[1] != points.shape[1])
      fail(path, ": 'mask' has shape ", shape_text(mask.shape), " and 'points' ", shape_text(points.shape), ", expected the same sets x points");
    for (std::int64_t s = 0; s < mask.shape[0]; ++s) {
      for (std::int64_t p = s * mask.shape[1]; p < (s + 1) * mask.shape[1]; ++p)
        if (mask.values[std::size_t(p)] != 0) kept.insert(kept.end(), points.values.begin() + p * width, points.values.begin() + (p + 1) * width);
      offsets.push_back(std::int64_t(kept.size()) / width);
    }
  } else {
    kept = std::move(points.values);
    if (has("counts")) {
      for (const auto n : whole_numbers(path, "counts", read_npz(file, "counts"), 0, exact)) offsets.push_back(offsets.back() + n);
    } else {
      if (points.shape[0] > exact) fail(path, ": has ", points.shape[0], " points; beyond ", exact, " give 'counts' in the place of 'offsets'");
      offsets = whole_numbers(path, "offsets", read_npz(file, "offsets"), 0, exact);
    }
    if (offsets.empty() || offsets.front() != 0 || !std::is_sorted(offsets.begin(), offsets.end()) || offsets.back() != points.shape[0])
      fail(path, ": its ", has("counts") ? "'counts' add up to " : "'offsets' have to rise from 0 to the points that there are; they end at ", offsets.empty() ? 0 : offsets.back(), ", there are ", points.shape[0], " points");
  }
  auto labels = labelled(std::int64_t(offsets.size()) - 1);
  std::vector<std::string> classes;
  if (!labels.empty())
    for (std::int32_t c = 0; c <= *std::max_element(labels.begin(), labels.end()); ++c) classes.push_back(std::to_string(c));
  const int count = int(classes.size());
  return {PointClouds(width, std::move(kept), std::move(offsets), std::move(labels), count), std::move(classes)};
}

}  // namespace detail

/// See the head of this file.
[[gnu::cold]] inline PointFiles point_files(const std::string& path) {
  struct stat status {};
  if (::stat(path.c_str(), &status) == 0 && S_ISDIR(status.st_mode)) return detail::sets_of_folder(path);
  if (path.ends_with(".ply") || path.ends_with(".xyz")) {
    int width = 3;
    auto points = detail::read_set(path, width);
    if (points.empty()) fail(path, ": is an empty set; each has at least 1 point");
    const auto count = std::int64_t(points.size()) / width;
    return {PointClouds(width, std::move(points), {0, count}), {}};
  }
  if (!path.ends_with(".npy") && !path.ends_with(".npz")) fail(path, ": expected a folder of sets, or a file .npy, .npz, .ply or .xyz");
  PointFiles result = path.ends_with(".npy") ? detail::sets_of_npy(path) : detail::sets_of_npz(path);
  detail::check_sets(path, result.sets);
  return result;
}

}  // namespace data
}  // namespace vaelib::inline VAELIB_ABI
