#include "kernels/check.h"

#include <cstdio>
#include <cstdlib>

namespace hotset {

void check_failed(const char* file, int line, const char* condition, const char* why) {
  std::fprintf(stderr, "hotset: internal error at %s:%d: %s (%s)\n", file, line, why, condition);
  std::abort();
}

}  // namespace hotset
