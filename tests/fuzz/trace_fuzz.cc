// Any bytes as a routing trace: refused by an Error, or read up to the first damage. The checksums
// are made right first: an input is to get past them.
// Seeds: none is needed; a trace of the demo model helps.
#include <xxhash.h>

#include <cstring>
#include <sstream>
#include <string>

#include "cache/trace.h"
#include "kernels/check.h"

namespace {

using namespace hotset;

// The head's last 8 bytes are the checksum of those before; a block's head is magic, bytes, sum.
void make_checksums_right(std::string& bytes) {
  uint32_t head_bytes = 0;
  if (bytes.size() < 12) return;
  std::memcpy(&head_bytes, bytes.data() + 8, 4);
  if (head_bytes < 20 || head_bytes > bytes.size()) return;
  const uint64_t sum = XXH3_64bits(bytes.data(), head_bytes - 8);
  std::memcpy(bytes.data() + head_bytes - 8, &sum, 8);
  for (size_t at = head_bytes; at + 16 <= bytes.size();) {
    uint32_t block_bytes = 0;
    std::memcpy(&block_bytes, bytes.data() + at + 4, 4);
    if (block_bytes > bytes.size() - at - 16) return;
    const uint64_t block_sum = XXH3_64bits(bytes.data() + at + 16, block_bytes);
    std::memcpy(bytes.data() + at + 8, &block_sum, 8);
    at += 16 + block_bytes;
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::string bytes(reinterpret_cast<const char*>(data), size);
  make_checksums_right(bytes);
  std::istringstream in(bytes);
  try {
    TraceReader reader(in, "input");
    uint64_t sum = 0;
    for (TraceEvent event; reader.next(event);) {
      for (const uint16_t id : event.ids) sum += id;
    }
    if (sum == UINT64_MAX) return 1;  // keeps the reading
  } catch (const Error&) {
  }
  return 0;
}
