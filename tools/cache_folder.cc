#include "tools/cache_folder.h"

#include <unistd.h>

#include <cstdlib>
#include <filesystem>

namespace hotset {
namespace {

std::optional<std::string> named_runtime_folder() {
  const char* named = std::getenv("XDG_RUNTIME_DIR");
  std::error_code error;  // it may be that of a session which has ended
  if (named == nullptr || named[0] != '/' || !std::filesystem::is_directory(named, error)) {
    return std::nullopt;
  }
  return named;
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
