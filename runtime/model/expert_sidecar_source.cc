#include "runtime/model/expert_sidecar_source.h"

#include <algorithm>
#include <cstring>

#include "kernels/check.h"

namespace hotset {

int64_t ExpertSidecarSource::load(ExpertId id, std::span<std::byte> slot) {
  if (reads_ == FileReads::kBuffered) {
    const auto blob = slot.first(static_cast<size_t>(file_.shapes()[id.layer].bytes));
    return sidecar_.read_expert(id, blob) ? std::ssize(blob) : file_.load(id, slot);
  }
  const int64_t bytes = read(id, 0, slot.data());
  for (int32_t task = 0; task < check_tasks(); ++task) {
    if (!is_sound(id, task, slot)) return file_.load(id, slot);
  }
  return bytes;
}

int64_t ExpertSidecarSource::landing_bytes() const {
  int64_t bytes = 0;
  for (int32_t layer = 0; layer < layer_count(); ++layer) {
    bytes = std::max(bytes, expert_bytes(layer));
  }
  return bytes;
}

int64_t ExpertSidecarSource::read(ExpertId id, int32_t, std::byte* landing) {
  const int64_t bytes = expert_bytes(id.layer);
  try {
    return landing_file_.read(sidecar_.expert_at(id), bytes, landing);
  } catch (const Error& error) {
    sidecar_.note_damage(error.what());
  }
  return file_.load(id, {landing, static_cast<size_t>(bytes)});
}

bool ExpertSidecarSource::is_sound(ExpertId id, int32_t task, std::span<const std::byte> slot) {
  const auto [begin, end] = expert_part(file_.shapes()[id.layer].bytes, task);
  return sidecar_.is_expert_part(id, task, slot.subspan(begin, end - begin));
}

void ExpertSidecarSource::pack(ExpertId id, int32_t task, const std::byte* landing,
                               std::span<std::byte> slot) {
  const auto [begin, end] = expert_part(file_.shapes()[id.layer].bytes, task);
  std::memcpy(slot.data() + begin, landing + begin, static_cast<size_t>(end - begin));
}

}  // namespace hotset
