// Any text as a daemon's log, from which a report is made or refused by an Error. Seeds: the lines
// in tools/check.
#include <string>

#include "kernels/check.h"
#include "profiler/report.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    hotset::report_of(std::string(reinterpret_cast<const char*>(data), size), "log");
  } catch (const hotset::Error&) {
  }
  return 0;
}
