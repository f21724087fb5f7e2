// Tables of numbers as text: CSV (RFC 4180) with any separator of one character.
//
// The first row may name the columns: it does where one of its fields is no number. LF and CRLF, quoted fields, a byte order
// mark, spaces around numbers and a missing line end at the end are fine; an empty field, a word or a row of another length is
// an Error that names row and column, counted from 1 as editors do. "nan" and "inf" are numbers: the likelihood decides.
#pragma once

#include <vaelib/core/error.hpp>
#include <vaelib/io/file.hpp>
#include <vaelib/io/json.hpp>

#include <charconv>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace vaelib::inline VAELIB_ABI {

struct CsvTable {
  std::vector<std::string> names;  ///< of the columns; empty where the file names none
  std::int64_t rows = 0, columns = 0;
  std::vector<float> values;  ///< rows x columns

  /// The position of a column; throws Error where there is none of this name.
  std::int64_t column(std::string_view name) const {
    std::string known;
    for (std::size_t i = 0; i < names.size(); ++i) {
      if (names[i] == name) return static_cast<std::int64_t>(i);
      if (i < 100) known += text(known.empty() ? "" : ", ", shown(names[i]));
    }
    fail("CSV: no column ", shown(name), "; the columns are ", known.empty() ? "not named" : known);
  }
};

struct CsvOptions {
  char separator = ',';
  std::uint64_t largest_file = std::uint64_t{1} << 33;  ///< bytes
};

namespace detail {

inline constexpr std::size_t csv_most_columns = 1 << 18;  // a field takes more memory than the comma that makes it

class CsvParser {
 public:
  CsvParser(const std::string& of, std::string_view content, char separates) : path(of), rest(content), separator(separates) {
    if (rest.starts_with("\xEF\xBB\xBF")) rest.remove_prefix(3);
  }

  CsvTable parse() {
    CsvTable table;
    std::vector<std::string> fields;
    while (read_row(fields)) {
      if (row == 1) {
        table.columns = static_cast<std::int64_t>(fields.size());
        bool named = false;
        for (const std::string& field : fields) named = named || !is_number(field);
        if (named) {
          table.names = fields;
          continue;
        }
      }
      add(table, fields);
    }
    if (table.rows == 0) fail(path, ": has no row of numbers");
    return table;
  }

 private:
  void add(CsvTable& table, const std::vector<std::string>& fields) const {
    if (static_cast<std::int64_t>(fields.size()) != table.columns)
      fail(path, ": row ", row, ": expected ", table.columns, " fields as in row 1, found ", fields.size());
    for (std::size_t c = 0; c < fields.size(); ++c) {
      float value = 0;
      if (!number(fields[c], value))
        fail(path, ": row ", row, ", column ", c + 1, table.names.empty() ? "" : " (" + shown(table.names[c]) + ')', ": expected a number, found ",
             shown(fields[c]));
      table.values.push_back(value);
    }
    ++table.rows;
  }

  /// Splits the next line that is not empty; false at the end.
  bool read_row(std::vector<std::string>& fields) {
    for (; !rest.empty() && (rest[0] == '\n' || rest[0] == '\r'); rest.remove_prefix(1)) row += rest[0] == '\n';
    if (rest.empty()) return false;
    ++row;
    fields.clear();
    do {
      if (fields.size() == csv_most_columns) fail(path, ": row ", row, ": has more than ", csv_most_columns, " fields");
      fields.push_back(read_field());
    } while (!rest.empty() && rest[0] == separator && (rest.remove_prefix(1), true));
    if (rest.starts_with("\r\n")) rest.remove_prefix(1);
    if (!rest.empty() && rest[0] != '\n') fail(path, ": row ", row, ", column ", fields.size(), ": foreign text behind a quoted field");
    if (!rest.empty()) rest.remove_prefix(1);
    return true;
  }
  std::string read_field() {
    std::string field;
    if (rest.empty() || rest[0] != '"') {
      const std::size_t end = std::min(rest.find_first_of(std::string{separator, '\n'}), rest.size());
      field = rest.substr(0, end);
      rest.remove_prefix(end);
      if (field.ends_with('\r')) field.pop_back();
      return field;
    }
    for (rest.remove_prefix(1);; rest.remove_prefix(1)) {
      if (rest.empty()) fail(path, ": row ", row, ": a quoted field has no end");
      if (rest[0] == '"') {
        rest.remove_prefix(1);
        if (!rest.starts_with('"')) return field;
      }
      field += rest[0];
    }
  }

  static bool is_number(const std::string& field) {
    float value = 0;
    return number(field, value);
  }
  static bool number(std::string_view field, float& value) {
    while (field.starts_with(' ')) field.remove_prefix(1);
    while (field.ends_with(' ')) field.remove_suffix(1);
    if (field.starts_with('+')) field.remove_prefix(1);
    double exact = 0;  // so that what is too small or too large for a float is rounded, not refused
    const auto [end, error] = std::from_chars(field.data(), field.data() + field.size(), exact);
    value = static_cast<float>(exact);
    return error == std::errc() && end == field.data() + field.size();
  }

  const std::string& path;
  std::string_view rest;
  char separator;
  std::int64_t row = 0;
};

}  // namespace detail

inline CsvTable read_csv(const InputFile& file, const CsvOptions& options = {}) {
  const std::string content = read_file(file, options.largest_file);
  return detail::CsvParser(file.path(), content, options.separator).parse();
}
inline CsvTable read_csv(const std::string& path, const CsvOptions& options = {}) { return read_csv(InputFile(path), options); }

}  // namespace vaelib::inline VAELIB_ABI
