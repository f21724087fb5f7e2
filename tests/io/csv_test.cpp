#include <vaelib/io/csv.hpp>

#include <cmath>

#include "faults.hpp"

using namespace vaelib;
using namespace io_test;

namespace {

struct Files {
  TemporaryFolder folder;
  std::string path = folder / "t.csv";

  CsvTable read(const std::string& content, CsvOptions options = {}) const {
    write_raw(path, content);
    return read_csv(path, options);
  }
  std::string error(const std::string& content) const {
    return error_of([&] { read(content); }).substr(path.size());
  }
};

using Floats = std::vector<float>;

}  // namespace

TEST_CASE("tables in every usual form") {
  const Files files;
  for (const char* content : {"1,2\n3,4\n", "1,2\r\n3,4\r\n", "1,2\n3,4", " 1 ,+2\n\n3,4\n\n", "\xEF\xBB\xBF\"1\",2\n3,\"4\"\n"}) {
    const CsvTable table = files.read(content);
    CHECK(table.names.empty());
    CHECK(table.rows == 2);
    CHECK(table.columns == 2);
    CHECK(table.values == Floats{1, 2, 3, 4});
  }
  const CsvTable named = files.read("a,\"b \"\"quoted\"\", with a comma\"\n1e-50,-2.5e3\n");
  CHECK(named.names == std::vector<std::string>{"a", "b \"quoted\", with a comma"});
  CHECK(named.values == Floats{0, -2500});
  CHECK(named.column("a") == 0);
  CHECK(error_of([&] { named.column("c"); }) == "CSV: no column \"c\"; the columns are \"a\", \"b \\\"quoted\\\", with a comma\"");
  CHECK(files.read("1;2\n", {.separator = ';'}).values == Floats{1, 2});
  CHECK(std::isnan(files.read("nan,inf\n").values[0]));
}

TEST_CASE("what is no table says where") {
  const Files files;
  CHECK(files.error("") == ": has no row of numbers");
  CHECK(files.error("a,b\n") == ": has no row of numbers");
  CHECK(files.error("1,2\n3,x\n") == ": row 2, column 2: expected a number, found \"x\"");
  CHECK(files.error("a,b\n1,\n") == ": row 2, column 2 (\"b\"): expected a number, found \"\"");
  CHECK(files.error("1,2\n3\n") == ": row 2: expected 2 fields as in row 1, found 1");
  CHECK(files.error("1,2\n\n3,4,5\n") == ": row 3: expected 2 fields as in row 1, found 3");
  CHECK(files.error("\"1\"x,2\n") == ": row 1, column 1: foreign text behind a quoted field");
  CHECK(files.error("1,\"2\n") == ": row 1: a quoted field has no end");
  CHECK(files.error("1,0x10\n2,3\n4,5,6") == ": row 3: expected 2 fields as in row 1, found 3");
  CHECK(error_of([&] { files.read("1,2\n", {.largest_file = 3}); }).find("at most 3") != std::string::npos);
}
