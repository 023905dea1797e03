#include "tools/cache_folder.h"

#include <cstdlib>

namespace hotset {

std::optional<std::string> cache_folder() {
  // The XDG specification: a relative path is not to be used.
  const char* cache = std::getenv("XDG_CACHE_HOME");
  if (cache != nullptr && cache[0] == '/') return std::string(cache) + "/hotset";
  const char* user = std::getenv("HOME");
  if (user != nullptr && user[0] == '/') return std::string(user) + "/.cache/hotset";
  return std::nullopt;
}

}  // namespace hotset
