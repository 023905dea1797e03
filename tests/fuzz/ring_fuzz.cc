// Any bytes as a ring, read as the daemon reads it. It needs no seeds: file_of puts records where
// they are found at once.
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <vector>

#include "kernels/check.h"
#include "profiler/ring_reader.h"
#include "profiler/statistics.h"

namespace {

// Inputs are cells; a sound header and lane come before them unless the first byte is odd, so that
// records are reached at once.
std::vector<std::byte> file_of(const uint8_t* data, size_t size) {
  constexpr uint64_t kCells = 64, kCellsAt = 2 * hotset::kRingPage;
  std::vector<std::byte> file(kCellsAt + kCells * sizeof(hotset::RingCell));
  const bool is_raw = size > 0 && data[0] % 2 == 1;
  if (!is_raw) {
    hotset::RingHeader header;
    header.lanes = 1;
    header.file_bytes = file.size();
    header.layers = 4;
    header.experts_per_layer = 32;
    header.picks_per_row = 4;
    std::memcpy(file.data(), &header, sizeof header);
    const std::array<uint64_t, 4> lane = {1, kCells, kCells, kCellsAt};
    std::memcpy(file.data() + hotset::kRingPage, lane.data(), sizeof lane);
    for (uint64_t i = 0; i < kCells; ++i) {
      const uint64_t sequence = i + 1;
      std::memcpy(file.data() + kCellsAt + i * sizeof(hotset::RingCell), &sequence, 8);
      const size_t from = 1 + i * 56;
      if (from >= size) continue;
      std::memcpy(file.data() + kCellsAt + i * sizeof(hotset::RingCell) + 8, data + from,
                  std::min<size_t>(56, size - from));
    }
  } else {
    std::memcpy(file.data(), data + 1, std::min(size - 1, file.size()));
    std::memcpy(file.data(), &hotset::kRingMagic, 8);
  }
  return file;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::vector<std::byte> file = file_of(data, size);
  const int fd = memfd_create("ring", MFD_CLOEXEC);
  if (fd < 0 || fchmod(fd, 0600) != 0) return 0;
  if (pwrite(fd, file.data(), file.size(), 0) != static_cast<ssize_t>(file.size())) return 0;
  try {
    hotset::RingReader reader(fd, "ring");
    reader.writer_is_alive();
    reader.model();
    std::vector<hotset::Record> records;
    reader.drain(records);
    hotset::Statistics statistics(reader.header());
    statistics.absorb(records, [](const hotset::Token& token) {
      hotset::explain(token);
      hotset::cause_of(token);
    });
    statistics.fade(1);
    statistics.recent_picks(0, 60);
    statistics.token_ns().quantile(0.99);
  } catch (const hotset::Error&) {
  }
  return 0;
}
