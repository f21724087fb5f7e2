#include "config.hpp"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <vaelib/io/file.hpp>

namespace vae {

using vaelib::fail;
using Json = nlohmann::ordered_json;

Values read_config_file(const std::string& path) {
  constexpr std::uint64_t largest = 1 << 20;  // bytes
  constexpr int deepest = 8;                  // objects and arrays within one another: they are copied by recursion
  constexpr std::size_t most_names = 1000;    // in an object: each is looked for among all before it
  std::vector<std::set<std::string>> open;    // names seen in the objects that are open
  const auto refuse = [&](int depth, Json::parse_event_t event, const Json& parsed) {
    using Event = Json::parse_event_t;
    if (depth >= deepest) fail(path, ": objects and arrays are nested more than ", deepest, " deep");
    if (event == Event::object_start) open.emplace_back();
    if (event == Event::object_end) open.pop_back();
    if (event == Event::key && !open.back().insert(parsed.get<std::string>()).second)
      fail(path, ": ", parsed.get<std::string>(), " is given twice");
    if (event == Event::key && open.back().size() > most_names) fail(path, ": has an object of more than ", most_names, " names");
    return true;
  };
  Json config;
  try {
    config = Json::parse(vaelib::read_file(path, largest), refuse);
  } catch (const Json::exception& error) {
    const std::string what = error.what();
    fail(path, ": is no JSON: ", what.substr(what.find("] ") + 2));
  }
  if (config.is_object() && config.contains("options")) config = Json(config["options"]);
  if (!config.is_object()) fail(path, ": is no configuration: expected a JSON object of flags, such as {\"epochs\": 10}");
  Values flags;
  for (const auto& [key, value] : config.items()) {
    if (value.is_structured() || value.is_null()) fail(path, ": ", key, ": expected a text, a number, true or false");
    std::string flag = key;
    std::replace(flag.begin(), flag.end(), '_', '-');
    flags[flag] = value.is_string() ? value.get<std::string>() : value.dump();
  }
  return flags;
}

Json config_of(TrainOptions options) {
  Json flags = Json::object();
  each_flag(options, [&](const Flag& flag, const auto& member) {
    if (flag.role == Role::call) return;
    if constexpr (std::is_same_v<std::remove_cvref_t<decltype(member)>, std::string>)
      if (member.empty()) return;
    std::string key = flag.name;
    std::replace(key.begin(), key.end(), '-', '_');
    flags[key] = member;
  });
  return flags;
}

}  // namespace vae
