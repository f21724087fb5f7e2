#include <vaelib/io/npz.hpp>

#include <cmath>
#include <string>
#include <vector>

#include "faults.hpp"

using namespace vaelib;
using namespace io_test;

namespace {

std::string golden(const std::string& name) { return std::string(VAELIB_TEST_FOLDER "/golden/") + name; }

/// x[i] = i / 4 - 1, as make_arrays.py has it.
void check_values(const std::vector<float>& values, std::size_t count, auto expected) {
  REQUIRE(values.size() == count);
  for (std::size_t i = 0; i < count; ++i) CHECK(values[i] == float(expected(double(i % 24) / 4 - 1)));
}

struct Files {
  TemporaryFolder folder;
  std::string path = folder / "f.npy";

  std::string error(const std::string& content) const {
    write_raw(path, content);
    return error_of([&] { read_npy(path); });
  }
};

std::string npy(const std::string& header, const std::string& values = "") {
  std::string content("\x93NUMPY\x01\x00", 8);
  content += char(header.size() & 255);
  content += char(header.size() >> 8);
  return content + header + values;
}
std::string dict(const std::string& shape, const std::string& descr = "<f4", const std::string& order = "False") {
  return "{'descr': '" + descr + "', 'fortran_order': " + order + ", 'shape': (" + shape + "), }\n";
}

}  // namespace

TEST_CASE("what NumPy writes is read, and what is written has NumPy's bytes") {
  const NpyArray array = read_npy(golden("float32.npy"));
  CHECK(array.shape == std::vector<std::int64_t>{2, 3, 4});
  check_values(array.values, 24, [](double x) { return x; });
  const TemporaryFolder folder;
  write_npy(folder / "again.npy", array.shape, array.values);
  CHECK(read_file(folder / "again.npy", 1000) == read_file(golden("float32.npy"), 1000));
  for (const std::vector<std::int64_t>& shape : {std::vector<std::int64_t>{}, {1}, {1, 1}}) {
    write_npy(folder / "one.npy", shape, array.values.empty() ? std::vector<float>{} : std::vector<float>{7});
    CHECK(read_npy(folder / "one.npy").shape == shape);
  }
  CHECK(error_of([&] { write_npy(folder / "x.npy", {2, 2}, array.values); }).ends_with("the shape (2, 2,) needs 4 values, found 24"));
}

TEST_CASE("arrays of zip files, stored and compressed") {
  CHECK(npz_names(golden("stored.npz")).size() == 12);
  for (const char* kind : {"f2", "f4", "f8"}) check_values(read_npz(golden("stored.npz"), kind).values, 24, [](double x) { return x; });
  for (const char* kind : {"i1", "i2", "i4", "i8"})
    check_values(read_npz(golden("stored.npz"), kind).values, 24, [](double x) { return std::trunc(x); });
  check_values(read_npz(golden("stored.npz"), "?").values, 24, [](double x) { return x != 0; });
  CHECK(read_npz(golden("stored.npz"), "unsigned").values == std::vector<float>{0, 255});
  CHECK(read_npz(golden("stored.npz"), "scalar").values == std::vector<float>{3.5});
  CHECK(read_npz(golden("stored.npz"), "nothing").shape == std::vector<std::int64_t>{0, 3});
  check_values(read_npz(golden("compressed.npz"), "x").values, 192, [](double x) { return x; });
  CHECK(read_npz(golden("compressed.npz"), "zeros").values == std::vector<float>(1'000'000, 0.0f));
  CHECK(error_of([] { read_npz(golden("stored.npz"), "turned"); }).find("\"turned\": is big-endian (\">f4\")") != std::string::npos);
  CHECK(error_of([] { read_npz(golden("stored.npz"), "f"); }).ends_with("has no array \"f\""));
}

TEST_CASE("damaged zip files") {
  const TemporaryFolder folder;
  const std::string whole = read_file(golden("compressed.npz"), 1 << 20);
  for (std::size_t length = 0; length < whole.size(); length += 7) {
    write_raw(folder / "z", whole.substr(0, length));
    CHECK(!error_of([&] { npz_names(folder / "z"); }).empty());
  }
  const auto wanted = read_npz(golden("compressed.npz"), "x").values;
  std::size_t refused = 0, flips = 0;
  for (std::size_t at = 0; at < whole.size(); at += 3, ++flips) {
    std::string damaged = whole;
    damaged[at] ^= 16;
    write_raw(folder / "z", damaged);
    try {  // a flip in a date or a name may pass; values never differ
      const auto values = read_npz(folder / "z", "x").values;
      CHECK(values == wanted);
    } catch (const Error&) {
      ++refused;
    }
  }
  CHECK(refused > flips / 10);
}

TEST_CASE("what is no .npy file, or one of another kind") {
  const Files files;
  CHECK(files.error("") == files.path + ": is no .npy file: it has only 0 bytes");
  CHECK(files.error("PK, a zip file").ends_with("byte 0: is no .npy file: it does not begin with \\x93NUMPY"));
  CHECK(files.error(std::string("\x93NUMPY\x04\x00\x00\x00", 10)).ends_with("has version 4.0; 1.0 to 3.0 are known"));
  CHECK(files.error(std::string("\x93NUMPY\x02\x00\xff\xff\xff\xff", 12)).find("a header of 4294967295 bytes") != std::string::npos);
  CHECK(error_of([] { read_npy(golden("fortran.npy")); }).find("is in Fortran order") != std::string::npos);
  CHECK(error_of([] { read_npy(golden("objects.npy")); }).find("a pickle that can run code") != std::string::npos);
  CHECK(files.error(npy(dict("2, 2"), "1234567")).ends_with("its shape needs 16 bytes of values, found 7"));
  CHECK(files.error(npy(dict("4611686018427387904, 4"))).ends_with("the product of its extents is above 2^59"));
  CHECK(files.error(npy(dict("0, 4611686018427387904"))).ends_with("above 2^59"));
  CHECK(files.error(npy(dict("1"), "1234")).ends_with("expected ',' behind a single extent"));
  CHECK(files.error(npy(dict("01,"), "1234")).ends_with("expected an extent"));
  CHECK(files.error(npy(dict("99999999999999999999,"))).find("expected an extent below 2^63") != std::string::npos);
  CHECK(files.error(npy(dict("-1,"))).find("expected an extent") != std::string::npos);
  CHECK(files.error(npy(dict("2,", "<c8"))).ends_with("has values of type \"<c8\"; expected floats, integers or booleans"));
  CHECK(files.error(npy("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (2,), }")).find("array of records") != std::string::npos);
  for (const std::string bad : {"", "{}", "{'shape': (1,)}", "{'shape': (1,), 'shape': (1,), 'descr': '<f4', 'fortran_order': False}",
                                "{'descr': '<f4', 'fortran_order': False, 'shape': (1,), 'x': 1}", "{'descr': '<f4",
                                "{'descr': '<f4', 'fortran_order': False, 'shape': (1,)} print()"})
    CHECK_MESSAGE(files.error(npy(bad, "1234")).find("of the header: expected") != std::string::npos, bad);
}
