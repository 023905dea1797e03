#include "tools/cpu_topology.h"

#include <sched.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <optional>
#include <set>
#include <sstream>
#include <string>
#include <utility>

namespace hotset {
namespace {

std::optional<std::string> first_line(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  if (!std::getline(file, line)) return {};
  return line;
}

std::optional<int64_t> number_in(const std::string& path) {
  const auto line = first_line(path);
  if (!line) return {};
  std::istringstream in(*line);
  int64_t value = 0;
  if (!(in >> value)) return {};
  return value;
}

// Two hardware threads of one core share its vector units: counted once.
int allowed_cores() {
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) return 1;
  std::set<std::pair<int64_t, int64_t>> cores;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(cpu, &allowed)) continue;
    const std::string folder = "/sys/devices/system/cpu/cpu" + std::to_string(cpu) + "/topology/";
    const auto package = number_in(folder + "physical_package_id");
    const auto core = number_in(folder + "core_id");
    // Without topology every CPU counts: a package number that no other has.
    cores.insert(core ? std::pair(package.value_or(0), *core)
                      : std::pair<int64_t, int64_t>(-1, cpu));
  }
  return std::max<int>(1, static_cast<int>(cores.size()));
}

// CPUs that a control group's folder allows, in CPU seconds a second.
std::optional<double> quota_in(const std::string& folder) {
  if (const auto line = first_line(folder + "/cpu.max")) {  // v2: "QUOTA PERIOD" or "max PERIOD"
    std::istringstream in(*line);
    double quota = 0, period = 0;
    if (in >> quota >> period && quota > 0 && period > 0) return quota / period;
    return {};
  }
  const auto quota = number_in(folder + "/cpu.cfs_quota_us");
  const auto period = number_in(folder + "/cpu.cfs_period_us");
  if (!quota || !period || *quota <= 0 || *period <= 0) return {};
  return static_cast<double>(*quota) / static_cast<double>(*period);
}

// The least quota on the way from a group to its mount's root. Inside a container the group's own
// path may not be visible; then the root is the container's group.
double least_quota(const std::string& mount, std::string group) {
  double least = INFINITY;
  for (;;) {
    if (const auto quota = quota_in(mount + group)) least = std::min(least, *quota);
    if (group.empty()) return least;
    group.resize(std::min(group.rfind('/'), group.size()));
  }
}

double cgroup_cpus() {
  double least = INFINITY;
  std::ifstream groups("/proc/self/cgroup");  // "ID:CONTROLLERS:PATH"
  for (std::string line; std::getline(groups, line);) {
    const size_t first = line.find(':'), second = line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = "," + line.substr(first + 1, second - first - 1) + ",";
    const std::string path = line.substr(second + 1) == "/" ? "" : line.substr(second + 1);
    if (controllers == ",,") least = std::min(least, least_quota("/sys/fs/cgroup", path));
    if (controllers.find(",cpu,") != std::string::npos) {
      least = std::min(least, least_quota("/sys/fs/cgroup/cpu", path));
    }
  }
  return least;
}

}  // namespace

int usable_cores() {
  const int cores = allowed_cores();
  const double quota = cgroup_cpus();
  return quota < cores ? std::max(1, static_cast<int>(std::ceil(quota))) : cores;
}

}  // namespace hotset
