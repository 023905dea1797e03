#include "tools/memory_room.h"

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <fstream>
#include <functional>
#include <sstream>
#include <vector>

namespace hotset {
namespace {

namespace fs = std::filesystem;

// A file of the kernel as lines; none where it cannot be read.
std::vector<std::string> lines_of(const std::string& path) {
  std::vector<std::string> lines;
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) lines.push_back(line);
  return lines;
}

// The first number in `text` after leading blanks; nothing for "max" and whatever else is none.
std::optional<int64_t> number_in(const std::string& text) {
  const size_t begin = std::min(text.find_first_not_of(" \t"), text.size());
  uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data() + begin, text.data() + text.size(), value);
  if (error != std::errc()) return {};
  return static_cast<int64_t>(std::min<uint64_t>(value, INT64_MAX));
}

std::optional<int64_t> number_in_file(const fs::path& path) {
  const std::vector<std::string> lines = lines_of(path);
  return lines.empty() ? std::nullopt : number_in(lines[0]);
}

// What follows `name` in lines such as "MemTotal:  24683656 kB" and "inactive_file 4096".
std::optional<int64_t> value_of(const std::vector<std::string>& lines, const std::string& name) {
  for (const std::string& line : lines) {
    if (line.size() > name.size() && line.starts_with(name) &&
        (line[name.size()] == ' ' || line[name.size()] == '\t')) {
      return number_in(line.substr(name.size()));
    }
  }
  return {};
}

// Where a hierarchy of control groups is mounted, and where in it this process is.
struct Hierarchy {
  fs::path mount;          // with the root's prefix
  std::string mount_root;  // the group that is seen at `mount`: a container's own, often
  std::string group;       // "/docker/ab", as /proc/self/cgroup says
  bool is_v2 = false;
};

struct Names {
  const char *limit, *usage;
  std::vector<const char*> reclaimable;
};
const Names kV1 = {
    "memory.limit_in_bytes", "memory.usage_in_bytes", {"total_inactive_file", "total_active_file"}};
const Names kV2 = {"memory.max", "memory.current", {"inactive_file", "active_file"}};

bool has_word(const std::string& list, const std::string& word) {
  return ("," + list + ",").find("," + word + ",") != std::string::npos;
}

// 4:memory:/docker/ab in version 1, 0::/docker/ab in version 2.
std::optional<std::string> own_group(const std::string& root, bool is_v2) {
  for (const std::string& line : lines_of(root + "/proc/self/cgroup")) {
    const size_t first = line.find(':'), second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    if (is_v2 ? controllers.empty() : has_word(controllers, "memory")) {
      return line.substr(second + 1);
    }
  }
  return {};
}

// 35 31 0:32 /docker/ab /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory
std::vector<Hierarchy> hierarchies(const std::string& root) {
  std::vector<Hierarchy> found;
  for (const std::string& line : lines_of(root + "/proc/self/mountinfo")) {
    const size_t dash = line.find(" - ");
    if (dash == std::string::npos) continue;
    std::istringstream left(line.substr(0, dash)), right(line.substr(dash + 3));
    std::string id, parent, device, mount_root, mount, type, source, options;
    left >> id >> parent >> device >> mount_root >> mount;
    right >> type >> source >> options;
    const bool is_v2 = type == "cgroup2";
    if (!is_v2 && (type != "cgroup" || !has_word(options, "memory"))) continue;
    const auto group = own_group(root, is_v2);
    if (!group) continue;
    found.push_back({root + mount, mount_root, *group, is_v2});
  }
  return found;
}

// The folders of the own group and of its ancestors as far as they can be seen, innermost first.
// Seen from inside a container the group may lie outside of what is mounted: then the mount's own
// root is the container's group.
std::vector<fs::path> folders_of(const Hierarchy& h) {
  const std::string above = h.mount_root == "/" ? "" : h.mount_root;
  std::string below = h.group == "/" ? "" : h.group;
  const bool is_seen =
      (below + "/").starts_with(above + "/") && below.find("..") == std::string::npos;
  below = is_seen ? below.substr(above.size()) : "";
  std::vector<fs::path> folders;
  std::error_code error;
  while (true) {
    const fs::path folder = h.mount.string() + below;
    if (fs::is_directory(folder, error)) folders.push_back(folder);
    const size_t slash = below.rfind('/');
    if (slash == std::string::npos) return folders;
    below.erase(slash);
  }
}

std::string name_of(const Hierarchy& h, const fs::path& folder) {
  const std::string below = folder.string().substr(h.mount.string().size());
  const std::string name = (h.mount_root == "/" ? "" : h.mount_root) + below;
  return "control group " + (name.empty() ? "/" : name);
}

// Page cache is not held: the kernel gives it up before anything fails.
std::optional<MemoryRoom> room_of_group(const Hierarchy& h, const fs::path& folder) {
  const Names& names = h.is_v2 ? kV2 : kV1;
  const std::vector<std::string> stat = lines_of(folder / "memory.stat");
  std::optional<int64_t> limit = number_in_file(folder / names.limit);
  // Version 1 tells the least limit of ancestors that cannot be seen from here; version 2 has a
  // softer limit, above which everything stalls.
  const auto other = h.is_v2 ? number_in_file(folder / "memory.high")
                             : value_of(stat, "hierarchical_memory_limit");
  if (other) limit = std::min(limit.value_or(*other), *other);
  const auto usage = number_in_file(folder / names.usage);
  if (!limit || !usage) return {};
  int64_t held = *usage;
  for (const char* name : names.reclaimable) held -= value_of(stat, name).value_or(0);
  return MemoryRoom{*limit - std::max<int64_t>(0, held), *limit, name_of(h, folder)};
}

std::optional<MemoryRoom> room_of_machine(const std::string& root) {
  const std::vector<std::string> lines = lines_of(root + "/proc/meminfo");
  const auto total = value_of(lines, "MemTotal:"), available = value_of(lines, "MemAvailable:");
  if (!total || !available) return {};
  const int64_t most = INT64_MAX / 1024;
  return MemoryRoom{1024 * std::min(*available, most), 1024 * std::min(*total, most),
                    "this machine"};
}

}  // namespace

std::optional<MemoryRoom> memory_room(const std::string& root) {
  std::optional<MemoryRoom> least = room_of_machine(root);
  for (const Hierarchy& h : hierarchies(root)) {
    for (const fs::path& folder : folders_of(h)) {
      const auto room = room_of_group(h, folder);
      if (room && (!least || room->bytes < least->bytes)) least = room;
    }
  }
  if (!least) return {};
  const std::vector<std::string> status = lines_of(root + "/proc/self/status");
  int64_t own = 0;  // pages of hugetlbfs are no part of the others
  for (const char* name : {"RssAnon:", "HugetlbPages:"}) {
    own += std::min(value_of(status, name).value_or(0), INT64_MAX / 4096);
  }
  least->bytes = std::max<int64_t>(0, least->bytes) + 1024 * own;
  least->bytes = std::min(least->bytes, least->limit_bytes);
  return least;
}

std::optional<MemoryPressure> memory_pressure(const std::string& root) {
  std::vector<std::string> files;
  for (const Hierarchy& h : hierarchies(root)) {
    if (!h.is_v2) continue;
    for (const fs::path& folder : folders_of(h)) files.push_back(folder / "memory.pressure");
  }
  files.push_back(root + "/proc/pressure/memory");
  // full avg10=0.00 avg60=0.00 avg300=0.00 total=0
  for (const std::string& file : files) {
    for (const std::string& line : lines_of(file)) {
      MemoryPressure pressure;
      std::istringstream words(line);
      std::string kind, ten, sixty;
      words >> kind >> ten >> sixty;
      if (kind != "full" || !ten.starts_with("avg10=") || !sixty.starts_with("avg60=")) continue;
      const auto read = [](const std::string& word, double& value) {
        const auto [end, error] =
            std::from_chars(word.data() + 6, word.data() + word.size(), value);
        return error == std::errc() && value >= 0 && value <= 100;
      };
      if (read(ten, pressure.avg10) && read(sixty, pressure.avg60)) return pressure;
    }
  }
  return {};
}

}  // namespace hotset
