// Reads the ring of another process (cache/ring.h), which may be of any version, half written,
// dead, or hostile: nothing in the file is believed before it has been checked, and a record is
// either what was written or not reported. The file is read, not mapped: where somebody cuts it off
// meanwhile, that is a short read, not a signal. Thread-compatible.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "cache/ring.h"

namespace hotset {

class RingReader {
 public:
  // Throws Error: not this user's with mode 0600, no ring, another version, sizes that contradict
  // the file's. The file may be unlinked afterwards; if it is cut off, its writer counts as dead.
  explicit RingReader(const std::string& path);
  RingReader(int fd, const std::string& path);  // takes the descriptor over
  ~RingReader();
  RingReader(const RingReader&) = delete;

  const RingHeader& header() const { return header_; }
  const std::string& path() const { return path_; }
  std::string model() const;

  bool writer_is_alive() const;
  // Hands what was written since the last call to `sink`, sorted by time, lanes merged, in pieces
  // that the nearest cache holds: valid until it returns. Records with layers, experts or types
  // that the header excludes are counted as invalid and left out. What budget_bytes(),
  // resident_bytes() and lost() say is of the last call: who asks between two does not look at the
  // file, which may have been cut off since.
  using Sink = std::function<void(std::span<const Record>)>;
  void drain(const Sink& sink);
  // The same, appended to `out`.
  void drain(std::vector<Record>& out);
  // The same for one thread's lane alone.
  size_t lane_count() const { return lanes_.size(); }
  void drain_lane(size_t lane, std::vector<Record>& out);

  int64_t budget_bytes() const { return budget_bytes_; }
  int64_t resident_bytes() const { return resident_bytes_; }
  uint64_t reported() const { return reported_; }
  uint64_t lost() const { return overwritten_ + dropped_; }  // before they were read, or dropped
  uint64_t invalid() const { return invalid_; }              // not such as this version knows

 private:
  using Cell = std::array<uint64_t, 8>;  // of the file: RingCell
  struct Lane {
    uint64_t at = 0, cells_at = 0;  // bytes from the start of the file
    uint64_t capacity = 0, next = 0;
  };
  void open_ring();
  void find_writer();
  bool read(uint64_t at, void* to, size_t bytes) const;  // false: the file has been cut off
  bool read_word(uint64_t at, uint64_t& word) const { return read(at, &word, sizeof word); }
  void read_dropped();
  uint64_t head_of(const Lane& lane) const;
  void drain_other_lanes();
  void drain_lane(Lane& lane, uint64_t head, const Sink& sink);
  void take(const Cell& cell, uint64_t sequence, uint64_t number);
  bool is_valid(const Record& record) const;

  std::string path_;
  const int fd_;
  int writer_ = -1;  // a descriptor of its process; -1: it had ended
  RingHeader header_;
  std::vector<Lane> lanes_;
  std::vector<Cell> cells_, again_;  // a piece of a lane, read twice,
  std::vector<Record> piece_;        // its records,
  std::vector<Record> others_;       // and those of the other lanes, in order
  std::vector<Record> merged_;
  int64_t budget_bytes_ = 0, resident_bytes_ = 0;
  uint64_t reported_ = 0, overwritten_ = 0, dropped_ = 0, invalid_ = 0;
};

// Rings in the folder, by name. Empty where there is no folder, or it is not this user's own.
std::vector<std::string> find_rings(const std::string& folder);

}  // namespace hotset
