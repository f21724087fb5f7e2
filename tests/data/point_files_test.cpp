// Sets of points out of files and folders.
#include <vaelib/data/point_files.hpp>

#include "../io/faults.hpp"

using namespace vaelib;
using namespace io_test;

namespace {

using Floats = std::vector<float>;
using Extents = std::vector<std::int64_t>;

Floats of(const data::PointClouds& sets, std::int64_t s) { return {sets.set(s).begin(), sets.set(s).end()}; }

const Floats three{1, 2, 3, 4, 5, 6};  // two points of three numbers

}  // namespace

TEST_CASE("a folder is a data set, a file a set; subfolders are classes") {
  const TemporaryFolder folder;
  write_xyz(folder / "b.xyz", three);
  write_ply(folder / "a.ply", Floats{7, 8, 9});
  write_npy(folder / "c.npy", {1, 3}, Floats{0, 0, 1});
  write_raw(folder / "notes.txt", "no points");
  const auto flat = data::point_files(folder.path);
  CHECK(flat.class_names.empty());
  CHECK(flat.sets.classes() == 0);
  CHECK(flat.sets.size() == 3);
  CHECK(of(flat.sets, 0) == Floats{7, 8, 9});
  CHECK(of(flat.sets, 1) == three);
  write_raw(folder / "d.xyz", "# empty\n");
  CHECK(error_of([&] { data::point_files(folder.path); }) == folder / "d.xyz" + ": is an empty set; each has at least 1 point");
  write_npy(folder / "d.npy", {2, 2}, Floats{1, 2, 3, 4});
  CHECK(error_of([&] { data::point_files(folder.path); }) == folder / "d.npy" + ": has points of 2 numbers, " + folder.path + "/a.ply of 3");

  create_directories(folder / "cars");
  create_directories(folder / "boats");
  write_xyz(folder / "cars/1.xyz", three);
  CHECK(data::point_files(folder.path).class_names == std::vector<std::string>{"boats", "cars"});
  write_ply(folder / "boats/1.ply", three);
  const auto classes = data::point_files(folder.path);
  CHECK(classes.sets.size() == 2);
  std::int32_t labels[2];
  Floats points(12);
  classes.sets.fill(0, std::vector<std::uint32_t>{1, 0}, points.data(), labels);
  CHECK(labels[0] == 1);
  CHECK(labels[1] == 0);
  write_npy(folder / "cars/2.npy", {2, 3}, Floats{1, 2, 3, 4, std::numeric_limits<float>::quiet_NaN(), 6});
  CHECK(error_of([&] { data::point_files(folder.path); }) == folder / "cars/2.npy" + ": row 1: number 1 is nan, expected a finite one");
  CHECK(error_of([&] { data::point_files(folder / "none"); }) == folder / "none" + ": expected a folder of sets, or a file .npy, .npz, .ply or .xyz");
  create_directories(folder / "cars/deep");
  CHECK(error_of([&] { data::point_files(folder / "cars/deep"); }).ends_with("has no file .ply, .xyz or .npy, nor has a folder in it"));
}

TEST_CASE("arrays: padded with NaN, padded with a mask, ragged by offsets and by counts, the same sets") {
  constexpr float nan = std::numeric_limits<float>::quiet_NaN();
  const TemporaryFolder folder;
  const std::string path = folder / "a.npz";
  const Floats padded{1, 2, nan, nan, 3, 4, 5, 6};
  const auto check = [](const data::PointFiles& read) {
    CHECK(read.sets.size() == 2);
    CHECK(of(read.sets, 0) == Floats{1, 2});
    CHECK(of(read.sets, 1) == Floats{3, 4, 5, 6});
  };
  write_npy(folder / "a.npy", {2, 2, 2}, padded);
  check(data::point_files(folder / "a.npy"));
  const Floats mask{1, 0, 1, 1};
  const std::vector<std::int64_t> offsets{0, 1, 3}, counts{1, 2}, labels{1, 0};
  write_npz(path, {{"points", {2, 2, 2}, padded}, {"mask", {2, 2}, mask}});
  check(data::point_files(path));
  const Floats ragged{1, 2, 3, 4, 5, 6};
  write_npz(path, {{"points", {3, 2}, ragged}, {"offsets", {3}, {}, offsets}, {"labels", {2}, {}, labels}});
  check(data::point_files(path));
  CHECK(data::point_files(path).class_names == std::vector<std::string>{"0", "1"});
  write_npz(path, {{"points", {3, 2}, ragged}, {"counts", {2}, {}, counts}});
  check(data::point_files(path));

  const auto refused = [&](const std::vector<NpzArray>& arrays, const std::string& sentence) {
    write_npz(path, arrays);
    CHECK(error_of([&] { data::point_files(path); }) == path + sentence);
  };
  const Floats all{1, 1, 1, 1}, none{0, 0, 1, 1}, fraction{0, 0.5f, 3};
  const std::vector<std::int64_t> falling{0, 4, 3}, short_of{1, 1};
  refused({{"points", {2, 2, 2}, padded}}, ": expected an array 'points' and one of 'mask', 'offsets' and 'counts'");
  refused({{"points", {2, 2, 2}, padded}, {"mask", {2, 2}, all}}, ": set 0, point 1: number 0 is nan, expected a finite one");
  refused({{"points", {2, 2, 2}, padded}, {"mask", {2, 2}, none}}, ": set 0 is empty; each has at least 1 point");
  refused({{"points", {2, 2, 2}, padded}, {"mask", {4}, all}}, ": 'mask' has shape [4] and 'points' [2,2,2], expected the same sets x points");
  refused({{"points", {2, 2, 2}, padded}, {"counts", {2}, {}, counts}}, ": 'points' has shape [2,2,2], expected points of all sets x numbers beside 'offsets' or 'counts'");
  refused({{"points", {3, 2}, ragged}, {"offsets", {3}, fraction}}, ": 'offsets' has the value 0.5 at 1, expected whole numbers from 0 to 16777216");
  refused({{"points", {3, 2}, ragged}, {"offsets", {3}, {}, falling}}, ": its 'offsets' have to rise from 0 to the points that there are; they end at 3, there are 3 points");
  refused({{"points", {3, 2}, ragged}, {"counts", {2}, {}, short_of}}, ": its 'counts' add up to 2, there are 3 points");
  refused({{"points", {3, 2}, ragged}, {"counts", {2}, {}, counts}, {"labels", {3}, {}, offsets}}, ": 3 'labels' for 2 sets");
  write_npy(folder / "a.npy", {2, 2, 2}, Floats{1, nan, 1, 1, 1, 1, 1, 1});
  CHECK(error_of([&] { data::point_files(folder / "a.npy"); }) == folder / "a.npy" + ": set 0, point 0: number 1 is nan, expected a finite one");
}
