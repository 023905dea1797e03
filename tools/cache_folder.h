// The user's folders for files that can be made again, and for those that live as long as a
// process. The one place that reads the environment.
#pragma once

#include <optional>
#include <string>
#include <vector>

namespace hotset {

// hotset's folder in the user's cache folder ($XDG_CACHE_HOME, or ~/.cache); it need not exist.
// Nothing where the environment names neither.
std::optional<std::string> cache_folder();

// Where an engine of this process has its ring and socket, on tmpfs: $XDG_RUNTIME_DIR/hotset, where
// that is this user's, else /dev/shm/hotset-UID. It need not exist (make_private_folder).
std::string runtime_folder();
// Where all running engines of this user have theirs. Some are started within the user's session,
// others are not (cron, su), and who watches may be either: so both the session's folder and
// the one in /dev/shm are looked into. But an XDG_RUNTIME_DIR that is not the session's own is a
// place apart: then only that. They need not exist, nor be this user's (is_private_folder).
std::vector<std::string> runtime_folders();

}  // namespace hotset
