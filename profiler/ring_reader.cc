#include "profiler/ring_reader.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <utility>

#include "kernels/check.h"

namespace hotset {
namespace {

constexpr uint16_t kNoLayer = 0xffff;

// Bounds that no real engine comes near; they keep what a reader allocates small.
constexpr int32_t kLayersMax = 4096, kExpertsMax = 65536;
constexpr int64_t kCellsMax = int64_t{1} << 22;  // layers * experts

}  // namespace

RingReader::RingReader(const std::string& path)
    : RingReader(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK), path) {}

RingReader::RingReader(int fd, const std::string& path) : path_(path), fd_(fd) {
  if (fd < 0) throw Error(path_ + ": cannot be opened: " + std::strerror(errno));
  try {
    map(fd);
  } catch (...) {
    close(fd);
    if (data_ != nullptr) munmap(const_cast<std::byte*>(data_), bytes_);
    throw;
  }
}

RingReader::~RingReader() {
  munmap(const_cast<std::byte*>(data_), bytes_);
  close(fd_);
}

void RingReader::map(int fd) {
  const auto refuse = [&](const std::string& why) { throw Error(path_ + ": " + why); };
  struct stat status {};
  if (fstat(fd, &status) != 0) refuse(std::strerror(errno));
  if (!S_ISREG(status.st_mode) || status.st_uid != geteuid() || (status.st_mode & 077) != 0) {
    refuse("is not a file of this user's with mode 0600");
  }
  bytes_ = static_cast<uint64_t>(status.st_size);
  if (bytes_ < kRingPage + sizeof(RingLane)) refuse("is too short for a ring");
  void* mapped = mmap(nullptr, bytes_, PROT_READ, MAP_SHARED, fd, 0);
  if (mapped == MAP_FAILED) refuse(std::string("cannot be mapped: ") + std::strerror(errno));
  data_ = static_cast<const std::byte*>(mapped);

  // The magic is written last.
  auto* magic = reinterpret_cast<uint64_t*>(const_cast<std::byte*>(data_));
  if (std::atomic_ref<uint64_t>(*magic).load(std::memory_order_acquire) != kRingMagic) {
    refuse("is not a ring, or not yet");
  }
  std::memcpy(&header_, data_, sizeof header_);
  if (header_.version != kRingVersion) {
    refuse(fmt::format("is a ring of version {}, this program reads version {}", header_.version,
                       kRingVersion));
  }
  const RingHeader& h = header_;
  const bool is_sound = h.header_bytes == sizeof(RingHeader) && h.cell_bytes == sizeof(RingCell) &&
                        h.file_bytes == bytes_ && h.lanes >= 1 && h.lanes <= kRingLanesMax &&
                        h.layers >= 1 && h.layers <= kLayersMax && h.experts_per_layer >= 1 &&
                        h.experts_per_layer <= kExpertsMax &&
                        int64_t{h.layers} * h.experts_per_layer <= kCellsMax;
  if (!is_sound || kRingPage + h.lanes * sizeof(RingLane) > bytes_) {
    refuse("is damaged: its header contradicts itself or the file's size");
  }
  header_.model[sizeof header_.model - 1] = 0;
  header_.program[sizeof header_.program - 1] = 0;
  const auto* shared = reinterpret_cast<const RingLane*>(data_ + kRingPage);
  for (uint32_t i = 0; i < h.lanes; ++i) {
    const uint64_t capacity = shared[i].capacity, at = shared[i].cells_at;
    const bool fits = std::has_single_bit(capacity) && capacity <= kRingRecordsMax &&
                      at % sizeof(RingCell) == 0 && at <= bytes_ &&
                      capacity <= (bytes_ - at) / sizeof(RingCell);
    if (!fits) refuse(fmt::format("is damaged: lane {} does not fit the file", i));
    lanes_.push_back({&shared[i], reinterpret_cast<const RingCell*>(data_ + at), capacity, 0});
  }
}

std::string RingReader::model() const {
  std::string name = header_.model;
  // It goes to terminals, pages and labels.
  for (char& c : name) {
    if (static_cast<unsigned char>(c) < 0x20 || static_cast<unsigned char>(c) >= 0x7f) c = '?';
  }
  return name;
}

// Beyond the end of a file that was cut off every look would be a signal: zeros take its place.
bool RingReader::is_whole() const {
  struct stat status {};
  if (fstat(fd_, &status) == 0 && std::cmp_greater_equal(status.st_size, bytes_)) return true;
  void* zeros = mmap(const_cast<std::byte*>(data_), bytes_, PROT_READ,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
  HOTSET_CHECK(zeros == data_, "a mapping takes the place of one as large");
  return false;
}

bool RingReader::writer_is_alive() const {
  if (!is_whole()) return false;
  const auto* gauges = reinterpret_cast<const RingGauges*>(data_ + kRingGaugesAt);
  if (gauges->is_closed.load(std::memory_order_acquire) != 0) return false;
  const uint64_t start = process_start(header_.pid);
  return start != 0 && start == header_.pid_start;
}

void RingReader::drain(std::vector<Record>& out) {
  const size_t first = out.size();
  if (!is_whole()) return;
  const auto* gauges = reinterpret_cast<const RingGauges*>(data_ + kRingGaugesAt);
  budget_bytes_ = gauges->budget_bytes.load(std::memory_order_relaxed);
  resident_bytes_ = gauges->resident_bytes.load(std::memory_order_relaxed);
  for (Lane& lane : lanes_) drain_lane(lane, out);
  std::stable_sort(out.begin() + static_cast<std::ptrdiff_t>(first), out.end(),
                   [](const Record& a, const Record& b) { return a.time_ns < b.time_ns; });
}

// At most a lap a call, whatever the head says.
void RingReader::drain_lane(Lane& lane, std::vector<Record>& out) {
  dropped_ = lanes_[0].shared->dropped.load(std::memory_order_relaxed);
  const uint64_t head = lane.shared->head.load(std::memory_order_acquire);
  if (head < lane.next) {  // no writer does that
    lane.next = head;
    ++invalid_;
    return;
  }
  if (head - lane.next > lane.capacity) {
    overwritten_ += head - lane.next - lane.capacity;
    lane.next = head - lane.capacity;
  }
  for (; lane.next != head; ++lane.next) {
    const RingCell& cell = lane.cells[lane.next & (lane.capacity - 1)];
    const uint64_t before = cell.sequence.load(std::memory_order_acquire);
    std::array<uint64_t, 7> words;
    for (size_t i = 0; i < words.size(); ++i) {
      words[i] = cell.words[i].load(std::memory_order_acquire);
    }
    const uint64_t after = cell.sequence.load(std::memory_order_relaxed);
    if (before != lane.next + 1 || after != before) {
      ++overwritten_;
      continue;
    }
    const auto record = std::bit_cast<Record>(words);
    if (is_valid(record)) {
      out.push_back(record);
    } else {
      ++invalid_;
    }
  }
}

bool RingReader::is_valid(const Record& r) const {
  constexpr int64_t kDurationMax = int64_t{1} << 50;  // 13 days
  const auto has_layer = [&] { return r.layer < header_.layers; };
  const auto is_expert = [&](int64_t e) { return e >= 0 && e < header_.experts_per_layer; };
  const auto is_time = [&](int64_t ns) {
    return ns >= 0 && ns < kDurationMax && static_cast<uint64_t>(ns) <= r.time_ns;
  };
  const auto is_size = [](int64_t bytes) { return bytes >= 0 && bytes < int64_t{1} << 50; };
  switch (r.type) {
    case RecordType::kStepBegin:
    case RecordType::kStepEnd: {
      const auto s = r.as<StepRecord>();
      return is_time(s.duration_ns) && is_size(s.position) && s.rows >= 1 && is_size(s.rows);
    }
    case RecordType::kPicks: {
      const auto p = r.as<PicksRecord>();
      if (!has_layer() || r.detail > PicksRecord::kMost) return false;
      for (int i = 0; i < r.detail; ++i) {
        if (!is_expert(p.experts[i]) || static_cast<int>(p.source(i)) >= kPickSources) return false;
      }
      return true;
    }
    case RecordType::kRange: {
      const auto range = r.as<RangeRecord>();
      return r.detail < kRangeNames && (has_layer() || r.layer == kNoLayer) &&
             is_time(range.duration_ns) && is_size(range.bytes) && is_size(range.count);
    }
    case RecordType::kTransfer: {
      const auto t = r.as<TransferRecord>();
      return r.detail < kTransferCauses && has_layer() && is_expert(t.expert) &&
             is_time(t.duration_ns) && is_size(t.bytes) && (t.to_card == 0 || t.to_card == 1);
    }
    case RecordType::kAdmit:
    case RecordType::kEvict: {
      const auto s = r.as<SlotRecord>();
      return has_layer() && is_expert(s.expert) && is_size(s.bytes);
    }
    case RecordType::kBudget: {
      const auto b = r.as<BudgetRecord>();
      return is_size(b.bytes_before) && is_size(b.bytes_after);
    }
    case RecordType::kError:
      return true;
    case RecordType::kPrediction: {
      const auto p = r.as<PredictionRecord>();
      return has_layer() && p.right >= 0 && p.right <= p.predicted && p.right <= p.picked;
    }
    case RecordType::kGuard:
      return r.detail < kGuardLanes;
  }
  return false;
}

std::vector<std::string> find_rings(const std::string& folder) {
  std::vector<std::string> found;
  struct stat status {};
  if (lstat(folder.c_str(), &status) != 0 || !S_ISDIR(status.st_mode) ||
      status.st_uid != geteuid() || (status.st_mode & 077) != 0) {
    return found;
  }
  std::error_code error;
  for (auto it = std::filesystem::directory_iterator(folder, error);
       !error && it != std::filesystem::directory_iterator(); it.increment(error)) {
    if (it->path().extension() == ".ring") found.push_back(it->path());
  }
  std::sort(found.begin(), found.end());
  return found;
}

}  // namespace hotset
