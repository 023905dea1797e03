#include "profiler/ring_reader.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/stat.h>
#include <sys/syscall.h>
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
constexpr size_t kPiece = 256;  // cells that are read at once: few, so that they are still cached

// Bounds that no real engine comes near; they keep what a reader allocates small.
constexpr int32_t kLayersMax = 4096, kExpertsMax = 4096;
constexpr int64_t kCellsMax = int64_t{1} << 22;  // layers * experts

RingReader::Sink append_to(std::vector<Record>& out) {
  return
      [&out](std::span<const Record> piece) { out.insert(out.end(), piece.begin(), piece.end()); };
}

}  // namespace

RingReader::RingReader(const std::string& path)
    : RingReader(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK), path) {}

RingReader::RingReader(int fd, const std::string& path)
    : path_(path), fd_(fd), cells_(kPiece), again_(kPiece) {
  piece_.reserve(kPiece);
  if (fd < 0) throw Error(path_ + ": cannot be opened: " + std::strerror(errno));
  try {
    open_ring();
    find_writer();
  } catch (...) {
    close(fd);
    throw;
  }
}

RingReader::~RingReader() {
  close(fd_);
  if (writer_ >= 0) close(writer_);
}

bool RingReader::read(uint64_t at, void* to, size_t bytes) const {
  return pread(fd_, to, bytes, static_cast<off_t>(at)) == static_cast<ssize_t>(bytes);
}

void RingReader::open_ring() {
  const auto refuse = [&](const std::string& why) { throw Error(path_ + ": " + why); };
  struct stat status {};
  if (fstat(fd_, &status) != 0) refuse(std::strerror(errno));
  if (!S_ISREG(status.st_mode) || status.st_uid != geteuid() || (status.st_mode & 077) != 0) {
    refuse("is not a file of this user's with mode 0600");
  }
  const auto bytes = static_cast<uint64_t>(status.st_size);
  if (bytes < kRingPage + sizeof(RingLane)) refuse("is too short for a ring");

  // The magic is written last.
  uint64_t magic = 0;
  if (!read_word(offsetof(RingHeader, magic), magic) || magic != kRingMagic ||
      !read(0, &header_, sizeof header_)) {
    refuse("is not a ring, or not yet");
  }
  if (header_.version != kRingVersion) {
    refuse(fmt::format("is a ring of version {}, this program reads version {}", header_.version,
                       kRingVersion));
  }
  const RingHeader& h = header_;
  const bool is_sound = h.header_bytes == sizeof(RingHeader) && h.cell_bytes == sizeof(RingCell) &&
                        h.file_bytes == bytes && h.lanes >= 1 && h.lanes <= kRingLanesMax &&
                        h.layers >= 1 && h.layers <= kLayersMax && h.experts_per_layer >= 1 &&
                        h.experts_per_layer <= kExpertsMax &&
                        int64_t{h.layers} * h.experts_per_layer <= kCellsMax;
  if (!is_sound || kRingPage + h.lanes * sizeof(RingLane) > bytes) {
    refuse("is damaged: its header contradicts itself or the file's size");
  }
  header_.model[sizeof header_.model - 1] = 0;
  header_.program[sizeof header_.program - 1] = 0;
  for (uint32_t i = 0; i < h.lanes; ++i) {
    Lane lane{.at = kRingPage + i * sizeof(RingLane)};
    const bool fits = read_word(lane.at + offsetof(RingLane, capacity), lane.capacity) &&
                      read_word(lane.at + offsetof(RingLane, cells_at), lane.cells_at) &&
                      std::has_single_bit(lane.capacity) && lane.capacity <= kRingRecordsMax &&
                      lane.cells_at % sizeof(RingCell) == 0 && lane.cells_at <= bytes &&
                      lane.capacity <= (bytes - lane.cells_at) / sizeof(RingCell);
    if (!fits) refuse(fmt::format("is damaged: lane {} does not fit the file", i));
    lanes_.push_back(lane);
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

// A number that has been given to another process since is told by its start. A descriptor is of
// one process for ever, so that it need not be asked for its start again.
void RingReader::find_writer() {
  if (header_.pid <= 0 || !std::in_range<pid_t>(header_.pid)) return;
  // glibc 2.36 declares its pidfd_open() for C alone.
  writer_ = static_cast<int>(syscall(SYS_pidfd_open, static_cast<pid_t>(header_.pid), 0));
  if (writer_ < 0) {
    if (errno == ESRCH || errno == EINVAL) return;
    throw Error(fmt::format("{}: process {} cannot be watched: {}", path_, header_.pid,
                            std::strerror(errno)));
  }
  const uint64_t start = process_start(header_.pid);
  if (start != 0 && start == header_.pid_start) return;
  close(writer_);
  writer_ = -1;
}

bool RingReader::writer_is_alive() const {
  uint64_t is_closed = 0;
  struct stat status {};
  pollfd end = {writer_, POLLIN, 0};
  return writer_ >= 0 && poll(&end, 1, 0) == 0 && fstat(fd_, &status) == 0 &&
         !std::cmp_less(status.st_size, header_.file_bytes) &&
         read_word(kRingGaugesAt + offsetof(RingGauges, is_closed), is_closed) && is_closed == 0;
}

// How far the step's lane is read is settled first: what other threads told of before that, a step
// may speak of, and it is in their lanes by then.
void RingReader::drain(const Sink& sink) {
  std::array<uint64_t, 2> gauges;
  static_assert(offsetof(RingGauges, resident_bytes) == sizeof(uint64_t));
  if (!read(kRingGaugesAt, &gauges, sizeof gauges)) gauges = {};
  budget_bytes_ = static_cast<int64_t>(gauges[0]);
  resident_bytes_ = static_cast<int64_t>(gauges[1]);
  read_dropped();
  const uint64_t head = head_of(lanes_[0]);
  drain_other_lanes();
  // Where nothing was read from the model's file, only the step's lane has any.
  auto other = others_.begin();
  drain_lane(lanes_[0], head, [&](std::span<const Record> piece) {
    if (other == others_.end()) return sink(piece);
    merged_.clear();
    for (const Record& record : piece) {
      while (other != others_.end() && other->time_ns < record.time_ns) {
        merged_.push_back(*other++);
      }
      merged_.push_back(record);
    }
    sink(merged_);
  });
  if (other != others_.end()) sink({other, others_.end()});
}

void RingReader::drain_other_lanes() {
  others_.clear();
  int lanes_with_records = 0;
  for (Lane& lane : std::span(lanes_).subspan(1)) {
    const size_t before = others_.size();
    drain_lane(lane, head_of(lane), append_to(others_));
    lanes_with_records += others_.size() > before ? 1 : 0;
  }
  if (lanes_with_records <= 1) return;
  std::stable_sort(others_.begin(), others_.end(),
                   [](const Record& a, const Record& b) { return a.time_ns < b.time_ns; });
}

void RingReader::drain(std::vector<Record>& out) {
  drain(append_to(out));
}

void RingReader::drain_lane(size_t lane, std::vector<Record>& out) {
  read_dropped();
  drain_lane(lanes_[lane], head_of(lanes_[lane]), append_to(out));
}

void RingReader::read_dropped() {
  uint64_t dropped = 0;
  if (read_word(lanes_[0].at + offsetof(RingLane, dropped), dropped)) dropped_ = dropped;
}

// Where the file has been cut off, what was read is all there is.
uint64_t RingReader::head_of(const Lane& lane) const {
  uint64_t head = 0;
  return read_word(lane.at + offsetof(RingLane, head), head) ? head : lane.next;
}

// At most a lap a call, whatever the head says. A piece of cells is read after the head that says
// that its records are complete; if the writer may have come round to it meanwhile, it is read
// again for what the sequences are then (cache/ring.h says why that suffices).
void RingReader::drain_lane(Lane& lane, uint64_t head, const Sink& sink) {
  if (head < lane.next) {  // no writer does that
    lane.next = head;
    ++invalid_;
    return;
  }
  if (head - lane.next > lane.capacity) {
    overwritten_ += head - lane.next - lane.capacity;
    lane.next = head - lane.capacity;
  }
  while (lane.next != head) {
    const uint64_t place = lane.next & (lane.capacity - 1);
    const uint64_t count =
        std::min<uint64_t>({head - lane.next, lane.capacity - place, cells_.size()});
    const uint64_t at = lane.cells_at + place * sizeof(Cell);
    uint64_t later = 0;
    if (!read(at, cells_.data(), count * sizeof(Cell)) ||
        !read_word(lane.at + offsetof(RingLane, head), later)) {
      return;
    }
    const bool is_safe = later - lane.next < lane.capacity;
    if (!is_safe && !read(at, again_.data(), count * sizeof(Cell))) return;
    const std::vector<Cell>& last = is_safe ? cells_ : again_;
    piece_.clear();
    for (uint64_t i = 0; i < count; ++i) take(cells_[i], last[i][0], lane.next++);
    if (!piece_.empty()) sink(piece_);
  }
}

void RingReader::take(const Cell& cell, uint64_t sequence, uint64_t number) {
  if (sequence != number + 1) {
    ++overwritten_;
    return;
  }
  std::array<uint64_t, 7> words;
  std::copy(cell.begin() + 1, cell.end(), words.begin());
  const auto record = std::bit_cast<Record>(words);
  if (is_valid(record)) {
    ++reported_;
    piece_.push_back(record);
  } else {
    ++invalid_;
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
      return is_time(s.duration_ns) && s.head_ns >= 0 && s.head_ns <= s.duration_ns &&
             is_size(s.position) && s.rows >= 1 && is_size(s.rows);
    }
    case RecordType::kLayer: {
      const auto layer = r.as<LayerRecord>();
      const auto picks =
          std::span(layer.experts).first(std::min<size_t>(layer.picks, layer.experts.size()));
      return has_layer() && is_time(layer.sum_ns()) && layer.picks == picks.size() &&
             static_cast<int>(layer.source) < kPickSources &&
             std::all_of(picks.begin(), picks.end(), is_expert);
    }
    case RecordType::kRange: {
      const auto range = r.as<RangeRecord>();
      return r.detail < kRangeNames && !is_part(static_cast<RangeName>(r.detail)) &&
             (has_layer() || r.layer == kNoLayer) && is_time(range.duration_ns) &&
             is_size(range.bytes) && is_size(range.count);
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
    case RecordType::kCard: {
      const auto c = r.as<CardRecord>();
      return is_size(c.hits) && is_size(c.misses) && is_size(c.slot_bytes) &&
             is_size(c.resident_bytes);
    }
  }
  return false;
}

std::vector<std::string> find_rings(const std::string& folder) {
  std::vector<std::string> found;
  if (!is_private_folder(folder)) return found;
  std::error_code error;
  for (auto it = std::filesystem::directory_iterator(folder, error);
       !error && it != std::filesystem::directory_iterator(); it.increment(error)) {
    if (it->path().extension() == ".ring") found.push_back(it->path());
  }
  std::sort(found.begin(), found.end());
  return found;
}

}  // namespace hotset
