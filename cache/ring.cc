#include "cache/ring.h"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <new>

#include "kernels/check.h"

namespace hotset {
namespace {

uint64_t pages(uint64_t bytes) {
  return (bytes + kRingPage - 1) / kRingPage * kRingPage;
}

[[noreturn]] void fail(const std::string& path, const char* what, int error) {
  throw Error(path + ": " + what + ": " + std::strerror(error));
}

struct Layout {
  uint64_t step_records = 0, thread_records = 0;
  uint32_t lanes = 0;
  uint64_t lanes_at = 0, cells_at = 0, bytes = 0;
};
Layout layout_of(int64_t records, int threads) {
  constexpr uint64_t kLeastRecords = 64;
  Layout layout;
  layout.step_records = std::bit_ceil(std::max<uint64_t>(records, kLeastRecords));
  HOTSET_CHECK(layout.step_records <= kRingRecordsMax, "check_config limits the ring");
  layout.thread_records = std::max(layout.step_records / 16, kLeastRecords);
  layout.lanes = std::min<uint32_t>(static_cast<uint32_t>(threads) + 1, kRingLanesMax);
  layout.lanes_at = kRingPage;
  layout.cells_at = layout.lanes_at + pages(layout.lanes * sizeof(RingLane));
  const uint64_t cells = layout.step_records + (layout.lanes - 1) * layout.thread_records;
  layout.bytes = pages(layout.cells_at + cells * sizeof(RingCell));
  return layout;
}

// A new file under the first free name.
int create_file(const std::string& folder, std::string& path) {
  for (int n = 0;; ++n) {
    path = fmt::format("{}/{}-{}.ring", folder, getpid(), n);
    const int fd = open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd >= 0) return fd;
    if (errno != EEXIST) fail(path, "cannot be created", errno);
  }
}

// Names that a ring may have: PID-N.ring. 0 for any other.
int64_t pid_of(const std::string& name) {
  int64_t pid = 0;
  int n = 0, length = 0;
  if (std::sscanf(name.c_str(), "%ld-%d.ring%n", &pid, &n, &length) != 2) return 0;
  return static_cast<size_t>(length) == name.size() && pid > 0 ? pid : 0;
}

}  // namespace

uint64_t process_start(int64_t pid) {
  std::ifstream file(fmt::format("/proc/{}/stat", pid));
  std::string line;
  if (!std::getline(file, line)) return 0;
  // The second field is a name in parentheses that may hold anything; the start is field 22.
  size_t at = line.rfind(')');
  if (at != std::string::npos && line.compare(at, 3, ") Z") == 0)
    return 0;  // killed, not waited for
  for (int field = 2; field < 22 && at != std::string::npos; ++field) at = line.find(' ', at + 1);
  if (at == std::string::npos) return 0;
  return std::strtoull(line.c_str() + at, nullptr, 10);
}

bool is_private_folder(const std::string& folder) {
  struct stat status {};
  return lstat(folder.c_str(), &status) == 0 && S_ISDIR(status.st_mode) &&
         status.st_uid == geteuid() && (status.st_mode & 077) == 0;
}

void make_private_folder(const std::string& folder) {
  if (mkdir(folder.c_str(), 0700) != 0 && errno != EEXIST) {
    fail(folder, "cannot be created", errno);
  }
  if (!is_private_folder(folder)) {
    throw Error(folder + ": is not a folder of this user's with mode 0700, as expected; remove it");
  }
}

void remove_dead_rings(const std::string& folder) {
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(folder, error)) {
    const int64_t pid = pid_of(entry.path().filename());
    if (pid == 0) continue;
    const uint64_t start = process_start(pid);
    bool is_dead = start == 0;
    if (!is_dead) {
      // The pid lives: as the writer, or as another process that was given the number again. A
      // header that is still all zero is just being written.
      std::ifstream file(entry.path(), std::ios::binary);
      RingHeader header;
      const bool is_whole =
          static_cast<bool>(file.read(reinterpret_cast<char*>(&header), sizeof header));
      is_dead = is_whole && header.magic == kRingMagic && header.pid_start != start;
    }
    if (is_dead) std::filesystem::remove(entry.path(), error);
  }
}

Ring::Ring(const std::string& folder, RingHeader header, int64_t records, int threads) {
  const Layout layout = layout_of(records, threads);
  make_private_folder(folder);
  remove_dead_rings(folder);
  lanes_ = layout.lanes;
  bytes_ = layout.bytes;

  const int fd = create_file(folder, path_);
  // Without the space a write into the mapping would be a signal in the middle of a token.
  const int no_space = posix_fallocate(fd, 0, static_cast<off_t>(bytes_));
  void* mapped = MAP_FAILED;
  if (no_space == 0) {
    mapped = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, 0);
  }
  const int error = no_space != 0 ? no_space : errno;
  close(fd);
  if (mapped == MAP_FAILED) {
    unlink(path_.c_str());
    fail(path_, "cannot be made as large as profiler.ring says", error);
  }
  data_ = static_cast<std::byte*>(mapped);
  gauges_ = new (data_ + kRingGaugesAt) RingGauges;
  lane_ = reinterpret_cast<RingLane*>(data_ + layout.lanes_at);
  uint64_t at = layout.cells_at;
  for (uint32_t i = 0; i < lanes_; ++i) {
    RingLane* lane = new (&lane_[i]) RingLane;
    lane->capacity = i == 0 ? layout.step_records : layout.thread_records;
    lane->cells_at = at;
    for (uint64_t c = 0; c < lane->capacity; ++c) new (data_ + at + c * sizeof(RingCell)) RingCell;
    at += lane->capacity * sizeof(RingCell);
  }
  header.lanes = lanes_;
  header.file_bytes = bytes_;
  header.pid = getpid();
  header.pid_start = process_start(getpid());
  header.created_unix_ns = std::chrono::duration_cast<std::chrono::nanoseconds>(
                               std::chrono::system_clock::now().time_since_epoch())
                               .count();
  // The magic last: a reader that finds it finds everything else.
  header.magic = 0;
  auto* placed = new (data_) RingHeader(header);
  std::atomic_ref<uint64_t>(placed->magic).store(kRingMagic, std::memory_order_release);
}

int64_t Ring::bytes_for(int64_t records, int threads) {
  return static_cast<int64_t>(layout_of(records, threads).bytes);
}

Ring::~Ring() {
  gauges_->is_closed.store(1, std::memory_order_release);
  unlink(path_.c_str());
  munmap(data_, bytes_);
}

void Ring::take_step_lane() {
  lane_[0].owner.store(pthread_self(), std::memory_order_relaxed);
}

// A thread's id is given again only after it has ended, so a lane never has two writers at once;
// what the first wrote is visible to the second, as for any memory of a thread that was joined.
RingLane* Ring::lane_of_this_thread() {
  const uint64_t self = pthread_self();
  for (uint32_t i = 0; i < lanes_; ++i) {
    uint64_t owner = lane_[i].owner.load(std::memory_order_relaxed);
    if (owner == self) return &lane_[i];
    if (i == 0 || owner != 0) continue;
    if (lane_[i].owner.compare_exchange_strong(owner, self, std::memory_order_relaxed)) {
      return &lane_[i];
    }
  }
  return nullptr;
}

void Ring::write(const Record& record) {
  RingLane* lane = lane_of_this_thread();
  if (lane == nullptr) {
    lane_[0].dropped.fetch_add(1, std::memory_order_relaxed);
    return;
  }
  const uint64_t n = lane->head.load(std::memory_order_relaxed);
  auto* cell = reinterpret_cast<RingCell*>(data_ + lane->cells_at) + (n & (lane->capacity - 1));
  const auto words = std::bit_cast<std::array<uint64_t, 7>>(record);
  cell->sequence.store(0, std::memory_order_relaxed);
  for (size_t i = 0; i < words.size(); ++i) {
    cell->words[i].store(words[i], std::memory_order_release);
  }
  cell->sequence.store(n + 1, std::memory_order_release);
  lane->head.store(n + 1, std::memory_order_release);
}

}  // namespace hotset
