#include "tools/cpu_topology.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <optional>
#include <sstream>
#include <string>

#include "kernels/cpu_cores.h"

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
  // Two hardware threads of one core share its vector units: counted once.
  const auto cores = static_cast<int>(physical_cores().size());
  const double quota = cgroup_cpus();
  return quota < cores ? std::max(1, static_cast<int>(std::ceil(quota))) : cores;
}

}  // namespace hotset
