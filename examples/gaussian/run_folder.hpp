// The output folder of a run: what lies in it, and whether it holds a run already.
#pragma once

#include <optional>
#include <vaelib/io/file.hpp>
#include <vaelib/io/safetensors.hpp>
#include <vaelib/train/history.hpp>

#include "data.hpp"

namespace vae {

class RunFolder {
 public:
  explicit RunFolder(std::string path) : folder(std::move(path)) {}

  const std::string& path() const { return folder; }
  std::string file(const std::string& name) const { return folder + '/' + name; }
  std::string checkpoints() const { return file("checkpoints"); }
  std::string logs() const { return file("logs"); }  ///< of TensorBoard

  bool holds_checkpoints() const;
  bool holds_model() const;
  /// Checkpoints, or any file that a run writes; config.json alone is one that ended before its first epoch did.
  bool holds_run() const;
  /// Whether all pictures, and a model of this step, were written.
  bool is_complete(std::uint64_t step, bool latent_space, bool best) const;
  /// Makes the folder, and removes what a killed process left half-written. Throws vaelib::Error where it cannot.
  void create() const;
  /// Removes what a run wrote, and nothing else.
  void clear() const;

  /// config.json: the flags by their names.
  Values read_config() const;
  /// The images of the run, from the same file.
  struct Description {
    vaelib::Shape image{1};
    int classes = 0;
    Normalisation normalisation{};
  };
  Description read_description() const;
  /// From metrics.jsonl.
  vaelib::History read_history() const;
  void write_config(const TrainOptions& options, const ImageData& data, long parameters) const;

  /// What model files say of themselves: the step, the split and normalisation of the data.
  vaelib::Metadata description_of(const ImageData& data, std::uint64_t step) const;
  /// The names of the files that a run writes.
  std::string planned(bool latent_space, bool best) const;
  /// Names and sizes of the files, on standard output.
  void list() const;

  static constexpr const char* step_key = "vae.step";  ///< in the metadata of model.safetensors

 private:
  std::string folder;
};

}  // namespace vae
