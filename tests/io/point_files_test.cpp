// .ply and .xyz.
#include <vaelib/io/point_files.hpp>

#include "faults.hpp"

using namespace vaelib;
using namespace io_test;

namespace {

using Floats = std::vector<float>;

Floats ply(const std::string& content) { return read_ply(InputFile("p", content)); }
Floats xyz(const std::string& content) { return read_xyz(InputFile("p", content)); }
std::string ply_error(const std::string& content) {
  return error_of([&] { ply(content); });
}
std::string xyz_error(const std::string& content) {
  return error_of([&] { xyz(content); });
}

const std::string axes = "property float x\nproperty float y\nproperty float z\n";
std::string header(const std::string& format, const std::string& elements) { return "ply\nformat " + format + " 1.0\n" + elements + "end_header\n"; }
std::string bytes_of(std::initializer_list<float> numbers) { return {reinterpret_cast<const char*>(numbers.begin()), numbers.size() * 4}; }
std::string swapped(std::string bytes) {
  for (std::size_t k = 0; k < bytes.size(); k += 4) std::reverse(bytes.begin() + long(k), bytes.begin() + long(k) + 4);
  return bytes;
}

}  // namespace

TEST_CASE("ply: ascii and binary, other properties and elements skipped") {
  const Floats expected{1, 2, 3, 4, 5, -6.5};
  CHECK(ply(header("ascii", "comment by hand\nelement vertex 2\n" + axes) + "1 2 3\n4\t+5 -6.5\n\n") == expected);
  CHECK(ply("ply\r\nformat ascii 1.0\r\nobj_info x\r\nelement vertex 2\r\nproperty double z\r\nproperty uchar red\r\nproperty int x\r\nproperty float32 y\r\n"
            "element face 1\r\nproperty list uchar int vertex_indices\r\nend_header\r\n3 255 1 2\r\n-6.5 0 4 5\r\n3 0 0 0\r\n") == expected);
  const std::string numbers = bytes_of({1, 2, 3, 4, 5, -6.5});
  CHECK(ply(header("binary_little_endian", "element vertex 2\n" + axes) + numbers) == expected);
  CHECK(ply(header("binary_big_endian", "element vertex 2\n" + axes) + swapped(numbers)) == expected);
  CHECK(ply(header("binary_little_endian", "element vertex 2\n" + axes + "property float quality\nelement face 7\nproperty list uchar int i\n") + bytes_of({1, 2, 3, 9, 4, 5, -6.5, 9}) + "anything") == expected);
  CHECK(ply(header("ascii", "element vertex 0\n" + axes)).empty());
}

TEST_CASE("ply: what is wrong is said, with its place; counts are checked first") {
  CHECK(ply_error("") == "p: is no .ply file: its first line is not 'ply'");
  CHECK(ply_error("ply\nformat ascii 1.0\n") == "p: is truncated in its header: it has no line 'end_header'");
  CHECK(ply_error("ply\nend_header\n") == "p: its header names no format");
  CHECK(ply_error("ply\nformat ascii 2.0\n").starts_with("p: line 2: expected one format ascii, "));
  CHECK(ply_error(header("ascii", "element face 0\n")) == "p: line 3: expected vertex to be the first element, and once, found \"element face 0\"");
  CHECK(ply_error(header("ascii", "element vertex -1\n")) == "p: line 3: expected a name and a count, found \"element vertex -1\"");
  CHECK(ply_error(header("ascii", "element vertex 1\nproperty list uchar int x\n")).find("expected a property of a vertex") != std::string::npos);
  CHECK(ply_error(header("ascii", "element vertex 1\nproperty float x\nproperty float y\n")) == "p: its vertices have not x, y and z, each once");
  CHECK(ply_error(header("ascii", "element vertex 1\n" + axes + "property int x\n")) == "p: its vertices have not x, y and z, each once");
  CHECK(ply_error(header("ascii", "nonsense\n")) == "p: line 3: expected a line of a header, found \"nonsense\"");
  const auto ascii = [](const std::string& count, const std::string& lines) { return ply_error(header("ascii", "element vertex " + count + "\n" + axes) + lines); };
  CHECK(ascii("1", "1 2 nan\n") == "p: line 8: expected a finite coordinate, found \"nan\"");
  CHECK(ascii("1", "1 2 1e39\n") == "p: line 8: expected a finite coordinate, found \"1e39\"");
  CHECK(ascii("1", "1 2 x\n") == "p: line 8: expected a number, found \"x\"");
  CHECK(ascii("1", "1 2      \n") == "p: line 8: expected a number, found \"\"");
  CHECK(ascii("1", "1 2 3 4\n") == "p: line 8: expected 3 numbers, found \"4\"");
  CHECK(ascii("1", "1 2 3\n4 5 6\n") == "p: line 9: expected nothing behind the vertices, found \"4\"");
  CHECK(ascii("2", "1.000 2.000 3.000\n") == "p: declares 2 vertices, ends after 1");
  CHECK(ascii("1000000000000", "1 2 3\n") == "p: declares 1000000000000 vertices of 3 numbers, more than the 6 bytes behind its header can hold");
  const auto binary = [](const std::string& count, const std::string& bytes) { return ply_error(header("binary_little_endian", "element vertex " + count + "\n" + axes) + bytes); };
  CHECK(binary("2", bytes_of({1, 2, 3})) == "p: declares 2 vertices of 12 bytes, found 12 bytes behind its header");
  CHECK(binary("18446744073709551615", bytes_of({1, 2, 3})).starts_with("p: declares 18446744073709551615 vertices of 12 bytes, found 12"));
  CHECK(binary("1", bytes_of({1, 2, 3, 4})).ends_with("found 16 bytes behind its header"));
  CHECK(binary("2", bytes_of({1, 2, 3, 4, std::numeric_limits<float>::infinity(), 6})) == "p: vertex 1: expected a finite coordinate y, found inf");
}

TEST_CASE("xyz: three columns and more, comments; what is wrong has a line") {
  CHECK(xyz("# a comment\n1 2 3 # of one point\n\n 4,\t+5, -6.5\r\n") == Floats{1, 2, 3, 4, 5, -6.5});
  CHECK(xyz("1 2 3 9 9\n4 5 6 nan 9") == Floats{1, 2, 3, 4, 5, 6});
  CHECK(xyz("# nothing\n").empty());
  CHECK(xyz_error("2\ncomment\nC 1 2 3\n") == "p: line 1: expected x, y and z, found \"1\"");
  CHECK(xyz_error("1 2 3\n\n1 2\n") == "p: line 3: expected 3 numbers as in the first line, found \"2\"");
  CHECK(xyz_error("1 2 3\n1 2 3 4\n") == "p: line 2: expected 3 numbers as in the first line, found \"4\"");
  CHECK(xyz_error("1 2 inf\n") == "p: line 1: expected a finite coordinate, found \"inf\"");
  CHECK(xyz_error("1 2 3 red\n") == "p: line 1: expected a number, found \"red\"");
}

TEST_CASE("points are written and read again as the same bits") {
  const TemporaryFolder folder;
  const Floats points{0.1f, -2e-30f, 3e20f, 1.0f / 3, 5, -0.0f};
  write_ply(folder / "a.ply", points);
  write_xyz(folder / "a.xyz", points);
  CHECK(read_ply(folder / "a.ply") == points);
  CHECK(read_xyz(folder / "a.xyz") == points);
  CHECK(error_of([&] { write_ply(folder / "b.ply", Floats{1, 2}); }) == folder / "b.ply" + ": 2 numbers are no points of x, y and z");
  CHECK(names_in(folder.path) == std::vector<std::string>{"a.ply", "a.xyz"});
}
