// The most memory that this process has had resident so far.
#pragma once

#include <cstdint>

namespace hotset {

int64_t peak_rss_bytes();  // 0 where the system does not say

}  // namespace hotset
