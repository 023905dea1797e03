// The user's folders for files that can be made again, and for those that live as long as a
// process. The one place that reads the environment.
#pragma once

#include <optional>
#include <string>

namespace hotset {

// hotset's folder in the user's cache folder ($XDG_CACHE_HOME, or ~/.cache); it need not exist.
// Nothing where the environment names neither.
std::optional<std::string> cache_folder();

// Where rings and sockets of running engines are, on tmpfs: $XDG_RUNTIME_DIR/hotset, else
// /dev/shm/hotset-UID. It need not exist (make_private_folder).
std::string runtime_folder();

}  // namespace hotset
