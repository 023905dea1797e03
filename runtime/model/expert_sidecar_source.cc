#include "runtime/model/expert_sidecar_source.h"

#include <algorithm>
#include <cstring>

#include "kernels/check.h"

namespace hotset {

int64_t ExpertSidecarSource::load(ExpertId id, std::span<std::byte> slot) {
  const auto blob = slot.first(static_cast<size_t>(file_.shapes()[id.layer].bytes));
  if (reads_ == FileReads::kBuffered) {
    return sidecar_.read_expert(id, blob) ? std::ssize(blob) : file_.load(id, slot);
  }
  int64_t bytes = 0;
  for (int32_t part = 0; part < parts(); ++part) bytes += read(id, part, slot.data());
  return bytes;
}

int64_t ExpertSidecarSource::landing_bytes() const {
  int64_t bytes = 0;
  for (int32_t layer = 0; layer < layer_count(); ++layer) {
    bytes = std::max(bytes, expert_bytes(layer));
  }
  return bytes;
}

int64_t ExpertSidecarSource::read(ExpertId id, int32_t part, std::byte* landing) {
  const auto [begin, end] = expert_part(file_.shapes()[id.layer].bytes, part);
  if (begin == end) return 0;
  const auto bytes = static_cast<size_t>(end - begin);
  try {
    const int64_t got =
        landing_file_.read(sidecar_.expert_at(id) + begin, end - begin, landing + begin);
    if (sidecar_.is_expert_part(id, part, {landing + begin, bytes})) return got;
  } catch (const Error& error) {
    sidecar_.note_damage(error.what());
  }
  // The whole expert for the sake of a part: this is not meant to happen twice in a run.
  const Memory whole(expert_bytes(id.layer), "an expert that its sidecar has damaged");
  const int64_t got = file_.load(id, {whole.data(), static_cast<size_t>(expert_bytes(id.layer))});
  std::memcpy(landing + begin, whole.data() + begin, bytes);
  return got;
}

void ExpertSidecarSource::pack(ExpertId id, int32_t task, const std::byte* landing,
                               std::span<std::byte> slot) {
  const auto [begin, end] = expert_part(file_.shapes()[id.layer].bytes, task);
  std::memcpy(slot.data() + begin, landing + begin, static_cast<size_t>(end - begin));
}

}  // namespace hotset
