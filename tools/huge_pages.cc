#include "tools/huge_pages.h"

#include <fstream>
#include <sstream>
#include <string>

namespace hotset {

// A mapping's lines are "Rss:  123 kB", "AnonHugePages: ...", "Private_Hugetlb: ...", and last
// "VmFlags: rd wr ... hg", where hg stands for MADV_HUGEPAGE and ht for hugetlbfs, whose pages are
// no part of Rss.
std::optional<double> huge_page_share(std::istream& smaps) {
  double resident = 0, huge = 0;  // kB
  double rss = 0, anonymous_huge = 0, set_aside = 0;
  for (std::string line; std::getline(smaps, line);) {
    std::istringstream words(line);
    std::string name;
    words >> name;
    if (name == "Rss:") words >> rss;
    if (name == "AnonHugePages:") words >> anonymous_huge;
    if (name == "Private_Hugetlb:") words >> set_aside;
    if (name != "VmFlags:") continue;
    for (std::string flag; words >> flag;) {
      if (flag != "hg" && flag != "ht") continue;
      const bool is_set_aside = flag == "ht";
      resident += is_set_aside ? set_aside : rss;
      huge += is_set_aside ? set_aside : anonymous_huge;
    }
  }
  if (resident == 0) return {};
  return huge / resident;
}

std::optional<double> huge_page_share() {
  std::ifstream smaps("/proc/self/smaps");
  return huge_page_share(smaps);
}

}  // namespace hotset
