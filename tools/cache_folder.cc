#include "tools/cache_folder.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>

namespace hotset {
namespace {

std::optional<std::string> named_runtime_folder() {
  const char* named = std::getenv("XDG_RUNTIME_DIR");
  if (named == nullptr || named[0] != '/') return std::nullopt;
  // It may be that of a session which has ended, or, after su, of another user.
  struct stat status {};
  const bool is_ours =
      stat(named, &status) == 0 && S_ISDIR(status.st_mode) && status.st_uid == geteuid();
  return is_ours ? std::optional<std::string>(named) : std::nullopt;
}

std::string folder_without_session() {
  return "/dev/shm/hotset-" + std::to_string(geteuid());
}

}  // namespace

std::optional<std::string> cache_folder() {
  // The XDG specification: a relative path is not to be used.
  const char* cache = std::getenv("XDG_CACHE_HOME");
  if (cache != nullptr && cache[0] == '/') return std::string(cache) + "/hotset";
  const char* user = std::getenv("HOME");
  if (user != nullptr && user[0] == '/') return std::string(user) + "/.cache/hotset";
  return std::nullopt;
}

std::string runtime_folder() {
  const std::optional<std::string> named = named_runtime_folder();
  return named ? *named + "/hotset" : folder_without_session();
}

std::vector<std::string> runtime_folders() {
  const std::optional<std::string> named = named_runtime_folder();
  const std::string session = "/run/user/" + std::to_string(geteuid());  // as pam_systemd names it
  std::error_code error;
  if (named && !std::filesystem::equivalent(*named, session, error)) return {*named + "/hotset"};
  return {session + "/hotset", folder_without_session()};
}

}  // namespace hotset
