// The report of a run: a page for the browser, and its numbers as JSON.
#pragma once

#include "data.hpp"
#include "model.hpp"
#include "run_folder.hpp"

namespace vae {

/// The page at `path`, and the numbers beside it (report.html and report.json). Metrics and configuration are read from
/// the folder, so that the report of a run is the same whenever it is written.
void write_report(const std::string& path, const RunFolder& folder, const AnyModel& model, const ImageData& data);

}  // namespace vae
