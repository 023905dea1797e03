#include "tools/peak_memory.h"

#include <cstring>
#include <fstream>
#include <string>

namespace hotset {

int64_t peak_rss_bytes() {
  std::ifstream status("/proc/self/status");
  int64_t kib = 0;
  for (std::string line; std::getline(status, line);) {
    // Pages of hugetlbfs are counted apart, those held now: weights are among them till the end.
    for (const char* name : {"VmHWM:", "HugetlbPages:"}) {
      if (line.starts_with(name)) kib += std::stoll(line.substr(std::strlen(name)));
    }
  }
  return 1024 * kib;
}

}  // namespace hotset
