#include "runtime/model/expert_sidecar_source.h"

#include <algorithm>
#include <cstring>

#include "kernels/check.h"

namespace hotset {

int64_t ExpertSidecarSource::load(ExpertId id, std::span<std::byte> slot) {
  const auto blob = slot.first(static_cast<size_t>(file_.shapes()[id.layer].bytes));
  bool is_whole = false;
  if (reads_ == FileReads::kBuffered) {
    is_whole = sidecar_.read_expert(id, blob);
  } else {
    for (int32_t part = 0; part < parts(); ++part) read(id, part, slot.data());
    is_whole = sidecar_.is_expert(id, blob);
  }
  return is_whole ? std::ssize(blob) : file_.load(id, slot);
}

int64_t ExpertSidecarSource::landing_bytes() const {
  int64_t bytes = 0;
  for (int32_t layer = 0; layer < layer_count(); ++layer) {
    bytes = std::max(bytes, expert_bytes(layer));
  }
  return bytes;
}

int64_t ExpertSidecarSource::read(ExpertId id, int32_t part, std::byte* landing) {
  const int64_t bytes = file_.shapes()[id.layer].bytes;
  const int64_t share = (bytes / parts() + kPageBytes - 1) / kPageBytes * kPageBytes;
  const int64_t begin = std::min(part * share, bytes);
  const int64_t end = part + 1 == parts() ? bytes : std::min(begin + share, bytes);
  if (begin == end) return 0;
  try {
    return landing_file_.read(sidecar_.expert_at(id) + begin, end - begin, landing + begin);
  } catch (const Error& error) {
    sidecar_.note_damage(error.what());  // pack() sees that it is not what was written
    return 0;
  }
}

void ExpertSidecarSource::pack(ExpertId id, int32_t, const std::byte* landing,
                               std::span<std::byte> slot) {
  const auto bytes = static_cast<size_t>(file_.shapes()[id.layer].bytes);
  if (!sidecar_.is_expert(id, {landing, bytes})) {
    file_.load(id, slot);
  } else if (landing != slot.data()) {
    std::memcpy(slot.data(), landing, bytes);
  }
}

}  // namespace hotset
