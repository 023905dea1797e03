// The ring between an engine and its watchers: a file of fixed size on tmpfs that the engine maps
// and writes, and any number of readers read (profiler/ring_reader.h). The writer never waits,
// never allocates, and knows nothing of readers: what it overwrites, they count as lost.
//
// Layout, little-endian, in this order, each part aligned to a page:
//   RingHeader          one page, with RingGauges in its second half
//   RingLane [lanes]    64 bytes each: owner, head, capacity, where its cells are
//   RingCell [capacity] of each lane, 64 bytes each: a sequence word and the record's seven
//
// A lane has one writer at a time. Record number n (from 0) goes into cell n % capacity:
//   1. sequence = 0           relaxed
//   2. the seven words        release, each
//   3. sequence = n + 1       release
//   4. head = n + 1           release
// A reader of record n reads, in this order, the head, which must be above n; the words; and the
// sequence, which must be n + 1 then: it has the record. Why this suffices without fences: the head
// (acquire) made all stores of record n visible, so no word of an earlier record can be seen. A
// word of a later record was stored after that record's 1., and who reads it (acquire) then finds
// that the sequence is no longer n + 1. (Nor does it write before the head is n + capacity: where
// that is still to come after the words were read, the sequence need not be read again.) Readers
// read the file, each step in a system call of its own: the kernel's loads are in that order where
// the processor does not reorder loads (x86-64 does not).
#pragma once

#include <sys/types.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>

#include "cache/records.h"

namespace hotset {

inline constexpr uint64_t kRingMagic = 0x474e495254455348;  // "HSETRING"
inline constexpr uint32_t kRingVersion = 3;
inline constexpr uint32_t kRingLanesMax = 1024, kRingPage = 4096;
inline constexpr uint64_t kRingRecordsMax = 1 << 24;

// What the writer is, fixed when the ring is made.
struct RingHeader {
  uint64_t magic = kRingMagic;
  uint32_t version = kRingVersion;
  uint32_t header_bytes = sizeof(RingHeader);
  uint32_t cell_bytes = 64;
  uint32_t lanes = 0;
  uint64_t file_bytes = 0;
  int64_t pid = 0;
  uint64_t pid_start = 0;  // start of the process in clock ticks after boot: a pid comes again
  int64_t created_unix_ns = 0;
  int32_t layers = 0, experts_per_layer = 0, picks_per_row = 0, threads = 0;
  char model[256] = {};   // file name, ended by a zero
  char program[64] = {};  // name and version
};

// What holds now, for a watcher that comes late. At kRingGaugesAt, in the header's page.
struct RingGauges {
  std::atomic<int64_t> budget_bytes{0};    // memory for experts
  std::atomic<int64_t> resident_bytes{0};  // ... in use
  std::atomic<int64_t> is_closed{0};       // 1: the engine has ended, its process may go on
};
inline constexpr uint64_t kRingGaugesAt = 2048;

struct RingLane {
  std::atomic<uint64_t> owner{0};    // the writing thread; 0: nobody yet
  std::atomic<uint64_t> head{0};     // records written
  uint64_t capacity = 0;             // a power of two
  uint64_t cells_at = 0;             // bytes from the start of the file
  std::atomic<uint64_t> dropped{0};  // of lane 0: records of threads that found no lane
  uint64_t unused[3] = {};
};
struct RingCell {
  std::atomic<uint64_t> sequence{0};
  std::atomic<uint64_t> words[7] = {};
};
static_assert(sizeof(RingLane) == 64 && sizeof(RingCell) == 64 &&
              sizeof(RingHeader) <= kRingGaugesAt);
static_assert(std::atomic<uint64_t>::is_always_lock_free);

// The owner of a ring file. Thread-safe: each thread writes into a lane of its own, which it takes
// at its first record and keeps.
class Ring {
 public:
  // Makes `folder`/PID-N.ring for `header` (whose own fields are filled in here), with `records`
  // (rounded up to a power of two) for the step's thread and a sixteenth of that for each of
  // `threads` others. Removes what dead processes left in the folder. Everything is allocated here.
  // Throws Error (path and reason): the folder is somebody else's, the file system is full.
  Ring(const std::string& folder, RingHeader header, int64_t records, int threads);
  ~Ring();  // removes the file
  // What that takes of memory.
  static int64_t bytes_for(int64_t records, int threads);
  Ring(const Ring&) = delete;

  const std::string& path() const { return path_; }
  int64_t bytes() const { return static_cast<int64_t>(bytes_); }
  // The calling thread runs the steps from now on: it writes into the large lane. One at a time.
  void take_step_lane();
  void write(const Record& record);
  RingGauges& gauges() { return *gauges_; }

 private:
  RingLane* lane_of_this_thread();

  std::string path_;
  std::byte* data_ = nullptr;
  uint64_t bytes_ = 0;
  uint32_t lanes_ = 0;
  RingGauges* gauges_ = nullptr;  // in the mapping, as
  RingLane* lane_ = nullptr;      // [lanes_]
};

// Start time of a living process, in clock ticks after boot; 0 where there is none.
uint64_t process_start(int64_t pid);
// Whether it is a folder of this user's, and no link, with mode 0700: nobody else's rings or
// sockets are in it.
bool is_private_folder(const std::string& folder);
// The folder, made if need be; an Error unless it is a private one.
void make_private_folder(const std::string& folder);
// Removes rings whose writer is dead, and what one left half made.
void remove_dead_rings(const std::string& folder);

}  // namespace hotset
