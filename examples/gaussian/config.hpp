// The flags of `vae train` as JSON: what --config reads, --print-config prints and config.json holds.
#pragma once

#include <nlohmann/json_fwd.hpp>

#include "options.hpp"

namespace vae {

/// The flags of a JSON object, {"batch_size": 64, "data": "shapes"}, or of its member "options" where it has one, as in the
/// config.json of a run. Throws vaelib::Error where the file is none.
Values read_config_file(const std::string& path);

/// The flags that a run keeps.
nlohmann::ordered_json config_of(TrainOptions options);

}  // namespace vae
