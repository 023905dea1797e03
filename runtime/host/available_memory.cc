#include "runtime/host/available_memory.h"

#include <algorithm>
#include <fstream>
#include <optional>
#include <sstream>

namespace hotset {

namespace {

std::optional<int64_t> read_number(const std::string& path) {
  std::ifstream file(path);
  int64_t value;
  if (!(file >> value)) return std::nullopt;  // there is no such file, or it says "max"
  return value;
}

// The number after `name` in a file of lines "name number".
std::optional<int64_t> read_field(const std::string& path, const std::string& name) {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    std::istringstream words(line);
    std::string key;
    int64_t value;
    if (words >> key >> value && key == name) return value;
  }
  return std::nullopt;
}

// What a group's limit leaves. Version 1 says "no limit" with a number that no machine has.
int64_t left_in(const std::string& folder, const char* limit_name, const char* usage_name,
                const char* cache_name) {
  const std::optional<int64_t> limit = read_number(folder + "/" + limit_name);
  if (!limit) return INT64_MAX;
  const int64_t used = read_number(folder + "/" + usage_name).value_or(0);
  const int64_t cached = read_field(folder + "/memory.stat", cache_name).value_or(0);
  return std::max<int64_t>(0, *limit - std::max<int64_t>(0, used - cached));
}

}  // namespace

int64_t available_memory(const std::string& root) {
  int64_t available = INT64_MAX;
  if (const auto kib = read_field(root + "/proc/meminfo", "MemAvailable:")) {
    available = *kib * 1024;
  }
  std::ifstream groups(root + "/proc/self/cgroup");
  for (std::string line; std::getline(groups, line);) {  // ID:CONTROLLERS:PATH
    const size_t first = line.find(':'), second = line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = "," + line.substr(first + 1, second - first - 1) + ",";
    const bool is_v2 = controllers == ",,";
    if (!is_v2 && controllers.find(",memory,") == std::string::npos) continue;
    // Every group up to the root has a limit of its own. In a container the root is the group
    // itself and the path is not to be found.
    for (std::string path = line.substr(second + 1);; path.resize(path.rfind('/'))) {
      if (path == "/") path.clear();
      const std::string base = root + "/sys/fs/cgroup";
      available =
          std::min(available, is_v2 ? left_in(base + path, "memory.max", "memory.current", "file")
                                    : left_in(base + "/memory" + path, "memory.limit_in_bytes",
                                              "memory.usage_in_bytes", "total_cache"));
      if (path.rfind('/') == std::string::npos) break;
    }
  }
  return available;
}

}  // namespace hotset
