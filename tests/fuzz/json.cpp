// Any JSON that headers may have: read by the cursor to its end, and strings quoted again.
#include "harness.hpp"

#include <vaelib/io/json.hpp>

namespace {

void value(vaelib::JsonCursor& json, std::size_t depth, char kind) {
  switch (depth < 8 ? kind % 4 : 3) {
    case 0:
      return json.members([&](const std::string& key) { value(json, depth + 1, key.empty() ? kind : key.back()); });
    case 1:
      return json.elements([&] { value(json, depth + 1, static_cast<char>(kind + 2)); });
    case 2:
      json.unsigned_integer();
      return;
    default:
      break;
  }
  const std::string text = json.string();
  if (!vaelib::is_utf8(text)) __builtin_trap();
  const std::string quoted = vaelib::json_quote(text);
  if (vaelib::JsonCursor(quoted, "quoted", 0).string() != text) __builtin_trap();
  if (!vaelib::is_utf8(vaelib::shown(text))) __builtin_trap();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  return fuzz::read([&] {
    const std::string text = fuzz::bytes(data, size);
    vaelib::JsonCursor json(text, "input", 0);
    value(json, 0, text.starts_with('[') ? 1 : text.starts_with('"') ? 3 : 0);
    json.expect_end();
  });
}
