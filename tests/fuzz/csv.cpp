#include <vaelib/io/csv.hpp>

#include "harness.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  return fuzz::read([&] {
    const vaelib::CsvTable table =
        vaelib::read_csv(vaelib::InputFile("input", fuzz::bytes(data, size)), {.separator = size % 2 ? ',' : ';'});
    if (table.rows < 1 || table.columns < 1 ||
        table.values.size() != static_cast<std::size_t>(table.rows * table.columns))
      __builtin_trap();
    for (const std::string& name : table.names) table.column(name);
  });
}
