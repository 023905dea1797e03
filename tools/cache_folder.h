// The user's folder for files that can be made again. The one place that reads the environment.
#pragma once

#include <optional>
#include <string>

namespace hotset {

// hotset's folder in the user's cache folder ($XDG_CACHE_HOME, or ~/.cache); it need not exist.
// Nothing where the environment names neither.
std::optional<std::string> cache_folder();

}  // namespace hotset
