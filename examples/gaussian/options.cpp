#include "options.hpp"

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <numeric>
#include <vaelib/core/error.hpp>
#include <vaelib/data/fashion_mnist.hpp>

#include "data.hpp"

namespace vae {

using vaelib::fail;
using vaelib::text;

Check one_of(std::vector<std::string> choices) {
  return [choices = std::move(choices)](const std::string& value) {
    std::string expected;
    for (std::size_t i = 0; i < choices.size(); ++i) {
      if (choices[i] == value) return std::string{};
      expected += text(i == 0 ? "" : i + 1 == choices.size() ? " or " : ", ", choices[i]);
    }
    return text("expected ", expected, ", found '", value, "'");
  };
}

Check whole_number(std::uint64_t least, std::uint64_t most) {
  return [=](const std::string& value) {
    std::uint64_t read = 0;
    const auto end = value.data() + value.size();
    const auto [stopped, error] = std::from_chars(value.data(), end, read);
    if (error == std::errc{} && stopped == end && read >= least && read <= most) return std::string{};
    return text("expected a whole number from ", least, " to ", most, ", found '", value, "'");
  };
}

Check number(double least, double most) {
  return [=](const std::string& value) {
    char* stopped = nullptr;
    const double read = std::strtod(value.c_str(), &stopped);
    const bool whole = !value.empty() && stopped == value.c_str() + value.size();
    if (whole && read >= least && read <= most) return std::string{};  // NaN is in no range
    return text("expected a number from ", text_of_value(least), " to ", text_of_value(most), ", found '", value, "'");
  };
}

Check not_empty() {
  return [](const std::string& value) { return std::string(value.empty() ? "expected a folder, found ''" : ""); };
}

std::string text_of_value(const std::string& value) { return value; }
std::string text_of_value(std::int64_t value) { return std::to_string(value); }
std::string text_of_value(std::uint64_t value) { return std::to_string(value); }
std::string text_of_value(bool value) { return value ? "true" : "false"; }
std::string text_of_value(double value) {
  char buffer[40];
  return {buffer, std::to_chars(buffer, buffer + sizeof buffer, value).ptr};
}

namespace {

void assign(std::string& member, const std::string& value) { member = value; }
void assign(std::int64_t& member, const std::string& value) { member = std::strtoll(value.c_str(), nullptr, 10); }
void assign(std::uint64_t& member, const std::string& value) { member = std::strtoull(value.c_str(), nullptr, 10); }
void assign(double& member, const std::string& value) { member = std::strtod(value.c_str(), nullptr); }
void assign(bool& member, const std::string& value) { member = value == "true"; }

std::size_t edits_between(const std::string& a, const std::string& b) {
  std::vector<std::size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), std::size_t{0});
  for (std::size_t i = 1; i <= a.size(); ++i) {
    std::size_t diagonal = std::exchange(row[0], i);
    for (std::size_t j = 1; j <= b.size(); ++j)
      diagonal = std::exchange(row[j], std::min({row[j] + 1, row[j - 1] + 1, diagonal + (a[i - 1] != b[j - 1])}));
  }
  return row.back();
}

}  // namespace

std::string nearest(const std::string& word, const std::vector<std::string>& known) {
  std::string best;
  std::size_t fewest = std::max<std::size_t>(2, word.size() / 3) + 1;
  for (const auto& candidate : known)
    if (const std::size_t edits = edits_between(word, candidate); edits < fewest) best = candidate, fewest = edits;
  return best;
}

void set_flags(TrainOptions& options, Given& given, const Values& values, const std::string& origin) {
  std::vector<std::string> known;
  each_flag(options, [&](const Flag& flag, auto& member) {
    known.push_back(flag.name);
    const auto found = values.find(flag.name);
    if (found == values.end() || given.contains(flag.name)) return;
    const Check& check = flag.value.empty() ? one_of({"true", "false"}) : flag.check;
    if (const auto complaint = check(found->second); !complaint.empty()) throw UsageError(text(origin, ": ", flag.name, ": ", complaint));
    assign(member, found->second);
    given.insert(flag.name);
  });
  for (const auto& [name, value] : values) {
    if (std::find(known.begin(), known.end(), name) != known.end()) continue;
    const std::string like = nearest(name, known);
    throw UsageError(text(origin, ": ", name, " is no flag of vae train", like.empty() ? "" : text("; did you mean ", like, "?")));
  }
}

void take_over(TrainOptions& options, Given& given, const Values& earlier,
               const std::string& folder) {
  each_flag(options, [&](const Flag& flag, auto& member) {
    const auto found = earlier.find(flag.name);
    if (found == earlier.end() || (flag.role != Role::identity && flag.role != Role::course)) return;
    const Check& check = flag.value.empty() ? one_of({"true", "false"}) : flag.check;
    if (const auto complaint = check(found->second); !complaint.empty())
      fail(folder, "/config.json: ", flag.name, ": ", complaint);
    auto value = member;
    assign(value, found->second);
    if (!given.contains(flag.name)) {
      member = value;
      given.insert(flag.name);
    } else if (flag.role == Role::identity && !(value == member)) {
      fail("the run in ", folder, " cannot go on with --", flag.name, " ", text_of_value(member),
           ": it was begun with ", text_of_value(value), " (leave the flag out, or choose another --output-dir)");
    }
  });
}

void choose_folder(TrainOptions& o, Given& given) {
  if (!given.contains("data"))
    o.data = given.contains("data-dir") || vaelib::data::has_fashion_mnist() ? "fashion-mnist" : "shapes";
  if (const std::string kind = kind_of_data(o.data); kind != o.data) {
    if (given.contains("data-dir")) throw UsageError(text("--data ", o.data, " is a path, so that --data-dir has no place"));
    o.data_dir = std::exchange(o.data, kind);
    given.insert("data-dir");
  }
  if (o.output_dir.empty()) o.output_dir = text("runs/", o.model_type, "-", o.data);
  while (o.output_dir.size() > 1 && o.output_dir.back() == '/') o.output_dir.pop_back();
}

void resolve(TrainOptions& o, const Given& given) {
  const auto has = [&](const char* name) { return given.contains(name); };
  if (!o.resume.empty() && o.overwrite) throw UsageError("--resume and --overwrite exclude each other");
  if (o.data != "fashion-mnist" && o.data != "shapes" && o.data_dir.empty())
    throw UsageError(text("--data ", o.data, " needs --data-dir, ", o.data == "array" ? "the file" : "the folder", " of its images"));
  if (o.data == "fashion-mnist" && o.data_dir.empty()) o.data_dir = vaelib::data::fashion_mnist_folder;

  if (!has("max-beta")) o.max_beta = o.beta;
  if (!has("beta-warmup-steps"))
    o.beta_warmup_steps = o.beta_strategy == "constant" ? 0 : o.beta_strategy == "cyclical" ? o.cycle_length / 2 : 5000;
  if (o.target_kl > 0 && o.free_bits_per != "dimension") throw UsageError("--target-kl goes with --free-bits-per dimension alone");
  if (o.beta_strategy != "constant" && o.min_beta > o.max_beta)
    throw UsageError(text("--min-beta ", text_of_value(o.min_beta), " is above --max-beta ", text_of_value(o.max_beta),
                          has("max-beta") ? "" : " (which is --beta where it is not given)"));
  if (o.beta_strategy == "cyclical" && o.beta_warmup_steps > o.cycle_length)
    throw UsageError(text("--beta-warmup-steps ", o.beta_warmup_steps, " is longer than --cycle-length ",
                          o.cycle_length, ", of which it is a part"));
}

std::vector<std::string> flags_without_effect(const TrainOptions& o, const Given& given) {
  std::vector<std::string> notes;
  const auto note = [&](bool without_effect, const char* flag, const std::string& with) {
    if (without_effect && given.contains(flag)) notes.push_back(text("--", flag, " has no effect with ", with));
  };
  const bool constant = o.beta_strategy == "constant";
  const std::string strategy = "--beta-strategy " + o.beta_strategy;
  note(o.model_type != "fc", "hidden-size", "--model-type " + o.model_type);
  note(o.data == "shapes", "data-dir", "--data shapes");
  note(o.data != "images", "image-size", "--data " + o.data);
  note(o.data != "images", "channels", "--data " + o.data);
  note(o.data != "images" && o.data != "array", "test-share", "--data " + o.data);
  note(o.init_from.empty(), "init-parts", "no --init-from");
  note(constant, "min-beta", strategy);
  note(constant, "max-beta", strategy);
  note(o.beta_strategy != "cyclical", "cycle-length", strategy);
  for (const char* flag : {"mi-weight", "tc-weight", "dimension-weight"}) note(!o.tc_decomposition, flag, "no --tc-decomposition");
  for (const char* flag : {"free-bits", "free-bits-per", "target-kl"}) note(o.tc_decomposition, flag, "--tc-decomposition");
  note(o.free_bits_per != "group", "free-bits-group", "--free-bits-per " + o.free_bits_per);
  note(!constant && given.contains("max-beta"), "beta", strategy + " and --max-beta");
  return notes;
}

}  // namespace vae
