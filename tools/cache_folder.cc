#include "tools/cache_folder.h"

#include <unistd.h>

#include <cstdlib>
#include <filesystem>

namespace hotset {

std::optional<std::string> cache_folder() {
  // The XDG specification: a relative path is not to be used.
  const char* cache = std::getenv("XDG_CACHE_HOME");
  if (cache != nullptr && cache[0] == '/') return std::string(cache) + "/hotset";
  const char* user = std::getenv("HOME");
  if (user != nullptr && user[0] == '/') return std::string(user) + "/.cache/hotset";
  return std::nullopt;
}

std::string runtime_folder() {
  const char* runtime = std::getenv("XDG_RUNTIME_DIR");
  std::error_code error;  // it may be that of a session which has ended
  if (runtime != nullptr && runtime[0] == '/' && std::filesystem::is_directory(runtime, error)) {
    return std::string(runtime) + "/hotset";
  }
  return "/dev/shm/hotset-" + std::to_string(geteuid());
}

}  // namespace hotset
