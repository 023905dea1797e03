#include "kernels/cpu_cores.h"

#include <unistd.h>

#include <fstream>
#include <map>
#include <string>
#include <utility>

namespace hotset {
namespace {

cpu_set_t allowed_cpus(pid_t thread) {
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  sched_getaffinity(thread, sizeof allowed, &allowed);
  return allowed;
}

// Package and number of a CPU's core. Without topology every CPU counts: a package that no other
// core has.
std::pair<int, int> core_of(int cpu) {
  const std::string folder = "/sys/devices/system/cpu/cpu" + std::to_string(cpu) + "/topology/";
  int package = 0, core = 0;
  if (!(std::ifstream(folder + "core_id") >> core)) return {-1, cpu};
  if (!(std::ifstream(folder + "physical_package_id") >> package)) package = 0;
  return {package, core};
}

std::vector<cpu_set_t> find_cores() {
  const cpu_set_t allowed = allowed_cpus(0);
  std::map<std::pair<int, int>, cpu_set_t> cores;  // value-initialised: empty sets
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (CPU_ISSET(cpu, &allowed)) CPU_SET(cpu, &cores[core_of(cpu)]);
  }
  if (cores.empty()) return {allowed};
  std::vector<cpu_set_t> sets;
  for (const auto& [core, cpus] : cores) sets.push_back(cpus);
  return sets;
}

}  // namespace

const std::vector<cpu_set_t>& physical_cores() {
  static const std::vector<cpu_set_t> cores = find_cores();
  return cores;
}

CorePin::CorePin(int index) : thread_(gettid()), before_(allowed_cpus(thread_)) {
  const std::vector<cpu_set_t>& cores = physical_cores();
  const cpu_set_t& core = cores[static_cast<size_t>(index) % cores.size()];
  sched_setaffinity(thread_, sizeof core, &core);
}

CorePin::~CorePin() {
  sched_setaffinity(thread_, sizeof before_, &before_);
}

}  // namespace hotset
