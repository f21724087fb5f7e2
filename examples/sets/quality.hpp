// How good new sets are, beside test sets.
#pragma once

#include <nlohmann/json_fwd.hpp>

#include "data.hpp"

namespace setvae {

/// MMD, COV, 1-NNA and JSD of `made` sets beside `real` ones, and of training sets beside them, which is what a model that knew
/// everything would have: printed and returned.
nlohmann::ordered_json quality_of(const Taken& made, const Taken& train, const Taken& real, int threads);

}  // namespace setvae
