// Checkpoints that survive a kill at any moment, a full disk and rotten bits.
//
// A checkpoint is a safetensors file <prefix>-<step, 12 digits>.safetensors. Its last tensor, `checkpoint.crc32`, is
// U8 [4] and holds the CRC-32 (little-endian) of every byte before it, header included: the file stays readable
// everywhere, and any flipped bit, truncation or appended byte is found.
//
// A save writes a temporary file, flushes it, reads it back and compares the checksum, renames it, flushes the folder,
// and only then removes what is older than the generation before. A folder and prefix belong to one run at a time.
// (Link: -lz)
#pragma once

#include <vaelib/core/error.hpp>
#include <vaelib/io/file.hpp>
#include <vaelib/io/safetensors.hpp>

#include <zlib.h>

#include <algorithm>
#include <charconv>
#include <cstdint>
#include <limits>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace vaelib::inline VAELIB_ABI {

/// A checkpoint in memory, its checksum verified. Its tensors are read from `file` by name.
struct Checkpoint {
  std::uint64_t step = 0;
  Metadata metadata;  // as it was given to save()
  SafetensorsFile file;
};

namespace detail {

inline constexpr const char* checksum_name = "checkpoint.crc32";
inline constexpr const char* step_name = "checkpoint.step";

inline std::uint32_t crc32_of(std::uint32_t crc, const void* data, std::size_t count) {
  return count == 0 ? crc : static_cast<std::uint32_t>(crc32_z(crc, static_cast<const unsigned char*>(data), count));
}

/// Fails unless the last four bytes are the checksum of those before and the step is the expected one; its step.
template <class = void>
std::uint64_t verify_checkpoint(const SafetensorsFile& file, std::optional<std::uint64_t> step = {}) {
  const InputFile& input = file.input();
  const TensorInfo* checksum = file.find(checksum_name);
  if (!checksum || checksum != &file.tensors().back() || checksum->dtype != Dtype::u8 || checksum->count() != 4)
    fail(input.path(), ": is no checkpoint: its last tensor is not ", checksum_name, " of 4 bytes");
  std::uint32_t stored = 0, computed = 0;
  file.read_exactly(checksum_name, std::span(reinterpret_cast<std::uint8_t*>(&stored), 4));
  std::vector<char> block(std::size_t{1} << 18);
  for (std::uint64_t done = 0, size = input.size() - 4; done < size;) {
    const auto part = static_cast<std::size_t>(std::min<std::uint64_t>(block.size(), size - done));
    input.read_at(done, block.data(), part);
    computed = crc32_of(computed, block.data(), part);
    done += part;
  }
  if (computed != stored)
    fail(input.path(), ": is damaged: its checksum is ", stored, ", that of its content ", computed);
  const auto saved = file.metadata().find(step_name);
  std::uint64_t found = 0;
  const bool known = saved != file.metadata().end();
  if (known) std::from_chars(saved->second.data(), saved->second.data() + saved->second.size(), found);
  if (!known || saved->second != std::to_string(step.value_or(found)))
    fail(input.path(), ": expected the checkpoint of step ", step ? std::to_string(*step) : "N", ", found ", known ? shown(saved->second) : "none");
  return found;
}

/// Reads and verifies one file; where `step` is given, it must be of that step.
template <class = void>
Checkpoint read_checkpoint(const InputFile& on_disk, std::optional<std::uint64_t> step = {}) {
  SafetensorsFile file(InputFile(on_disk.path(), read_file(on_disk, std::numeric_limits<std::uint64_t>::max())));
  const std::uint64_t found = verify_checkpoint(file, step);
  Metadata metadata = file.metadata();
  metadata.erase(step_name);
  return {found, std::move(metadata), std::move(file)};
}

}  // namespace detail

/// The checkpoints of one run: the newest and the one before.
template <class = void>
class BasicCheckpointStore {
 public:
  explicit BasicCheckpointStore(std::string folder, std::string prefix = "checkpoint")
      : folder_path(std::move(folder)), file_prefix(std::move(prefix) + "-") {}

  /// Saves the state after `step`, which becomes the newest. Where it fails, what was saved before is still there.
  void save(std::uint64_t step, std::vector<SafetensorsView> tensors, Metadata metadata = {}) const {
    write(step, std::move(tensors), std::move(metadata));
    remove_all_but_last_two(step);
  }

  /// The same, and no other checkpoint is removed.
  void write(std::uint64_t step, std::vector<SafetensorsView> tensors, Metadata metadata = {}) const {
    create_directories(folder_path);
    remove_temporary_files();
    write_file(step, std::move(tensors), std::move(metadata));
  }
  void remove_all_but(std::span<const std::uint64_t> kept) const {
    for (const std::uint64_t step : saved_steps())
      if (std::find(kept.begin(), kept.end(), step) == kept.end()) remove_file(path_of(step));
  }

  /// The newest checkpoint that is whole; none where there is none. What was skipped, and why, is appended to
  /// `skipped`.
  std::optional<Checkpoint> newest_valid(std::vector<std::string>* skipped = nullptr) const {
    std::vector<std::uint64_t> steps = saved_steps();
    for (; !steps.empty(); steps.pop_back()) {
      try {
        return detail::read_checkpoint(InputFile(path_of(steps.back())), steps.back());
      } catch (const Error& error) {
        if (skipped) skipped->push_back(error.what());
      }
    }
    return std::nullopt;
  }

  /// Removes every checkpoint, for a run that starts afresh.
  void clear() const {
    remove_temporary_files();
    for (const std::uint64_t step : saved_steps()) remove_file(path_of(step));
  }

  std::string path_of(std::uint64_t step) const { return folder_path + '/' + name_of(step); }

 private:
  void write_file(std::uint64_t step, std::vector<SafetensorsView> tensors, Metadata metadata) const {
    const std::string path = path_of(step);
    if (!metadata.emplace(detail::step_name, std::to_string(step)).second)
      fail(path, ": the metadata key ", detail::step_name, " is the checkpoint's own");
    std::uint32_t crc = 0;
    sort_for_safetensors(tensors);
    tensors.push_back({detail::checksum_name, Dtype::u8, {4}, &crc});
    const std::string prefix = safetensors_prefix(tensors, metadata, path);
    AtomicFile file(path);
    const auto write_and_sum = [&](const void* data, std::size_t count) {
      file.write(data, count);
      crc = detail::crc32_of(crc, data, count);
    };
    write_and_sum(prefix.data(), prefix.size());
    tensors.pop_back();
    for (const SafetensorsView& tensor : tensors) write_and_sum(tensor.data, tensor.bytes());
    file.write(&crc, sizeof crc);
    file.flush_and_close();
    detail::verify_checkpoint(SafetensorsFile(file.temporary_path()), step);
    file.publish();
  }

  /// A save makes its step the newest: what claims to be later was damaged, or belongs to a run that was given up.
  void remove_all_but_last_two(std::uint64_t newest) const {
    const std::vector<std::uint64_t> steps = saved_steps();
    std::uint64_t previous = newest;
    for (const std::uint64_t step : steps)
      if (step < newest) previous = step;
    for (const std::uint64_t step : steps)
      if (step != newest && step != previous) remove_file(path_of(step));
  }

  /// Left by a process that was killed during a save.
  void remove_temporary_files() const {
    for (const std::string& name : list_folder(folder_path)) {
      const std::size_t mark = name.find(AtomicFile::temporary_mark, file_prefix.size());
      if (mark != std::string::npos && step_of(name.substr(0, mark))) remove_file(folder_path + '/' + name);
    }
  }

  /// Increasing.
  std::vector<std::uint64_t> saved_steps() const {
    std::vector<std::uint64_t> steps;
    for (const std::string& name : list_folder(folder_path))
      if (const auto step = step_of(name)) steps.push_back(*step);
    std::sort(steps.begin(), steps.end());
    return steps;
  }

  /// The step in a file's name; none where it is not the name of a checkpoint of this store.
  std::optional<std::uint64_t> step_of(std::string_view name) const {
    if (!name.starts_with(file_prefix)) return std::nullopt;
    std::uint64_t step = 0;
    for (const char c : name.substr(file_prefix.size(), name.find('.', file_prefix.size()) - file_prefix.size())) {
      if (c < '0' || c > '9') return std::nullopt;
      step = step * 10 + static_cast<std::uint64_t>(c - '0');
    }
    if (name != name_of(step)) return std::nullopt;  // too long a number included, which has wrapped around
    return step;
  }

  std::string name_of(std::uint64_t step) const {
    const std::string digits = std::to_string(step);
    const std::string zeros(digits.size() < 12 ? 12 - digits.size() : 0, '0');
    return file_prefix + zeros + digits + ".safetensors";
  }

  std::string folder_path;
  std::string file_prefix;
};

using CheckpointStore = BasicCheckpointStore<>;

/// One checkpoint, whatever its name. Throws where it is damaged or none.
inline Checkpoint load_checkpoint(const InputFile& file) { return detail::read_checkpoint(file); }
inline Checkpoint load_checkpoint(const std::string& path) { return load_checkpoint(InputFile(path)); }

}  // namespace vaelib::inline VAELIB_ABI
