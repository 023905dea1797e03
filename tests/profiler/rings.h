// A private folder for rings, and a ring with a recorder over it.
#pragma once

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "cache/recorder.h"
#include "profiler/ring_reader.h"

namespace hotset::test {

inline RingHeader small_header() {
  RingHeader header;
  header.layers = 4;
  header.experts_per_layer = 64;
  header.picks_per_row = 4;
  std::string("model.gguf").copy(header.model, sizeof header.model - 1);
  return header;
}

class RingFolder {
 public:
  RingFolder() {
    const auto* test = testing::UnitTest::GetInstance()->current_test_info();
    path_ = std::filesystem::path(testing::TempDir()) /
            (std::string("rings_") + test->name() + "_" + std::to_string(getpid()));
    std::filesystem::remove_all(path_);
  }
  ~RingFolder() { std::filesystem::remove_all(path_); }
  std::string path() const { return path_; }

 private:
  std::filesystem::path path_;
};

// An engine in a process of its own, until it is killed.
class EngineProcess {
 public:
  // `begin` makes the engine's ring and writes into it, there; what it returns lives as long as the
  // process. It has ended when this is made.
  template <class Begin>
  explicit EngineProcess(const Begin& begin) {
    int begun[2] = {-1, -1};
    EXPECT_EQ(pipe(begun), 0);
    pid_ = fork();
    if (pid_ == 0) {
      const auto kept = begin();
      if (write(begun[1], "x", 1) != 1) _exit(1);
      while (true) pause();
    }
    close(begun[1]);
    char byte;
    EXPECT_EQ(read(begun[0], &byte, 1), 1) << "it died";
    close(begun[0]);
  }
  ~EngineProcess() { kill(); }
  EngineProcess(const EngineProcess&) = delete;

  pid_t pid() const { return pid_; }
  void kill() {
    const pid_t pid = std::exchange(pid_, -1);
    if (pid <= 0) return;
    ::kill(pid, SIGKILL);
    waitpid(pid, nullptr, 0);
  }

 private:
  pid_t pid_ = -1;
};

inline std::vector<Record> drain(RingReader& reader) {
  std::vector<Record> records;
  reader.drain(records);
  return records;
}

inline constexpr uint64_t kMs = 1000000;

// Writes records as an engine would, at times of the test's choosing.
class Script {
 public:
  uint64_t time_ns = 5 * uint64_t{1000000000};

  void begin(int64_t position, int64_t rows = 1) {
    ++step_;
    position_ = position;
    rows_ = rows;
    begin_ns_ = time_ns;
    add(RecordType::kStepBegin, 0, 0, StepRecord{position, rows});
  }
  // `head_ns` of it have not gone by yet.
  void end(uint64_t head_ns = 0) {
    time_ns += head_ns;
    add(RecordType::kStepEnd, 0, 0,
        StepRecord{.position = position_,
                   .rows = rows_,
                   .duration_ns = static_cast<int64_t>(time_ns - begin_ns_),
                   .head_ns = static_cast<int64_t>(head_ns)});
  }
  void range(RangeName name, uint16_t layer, uint64_t ns, int64_t count = 0) {
    time_ns += ns;
    add(RecordType::kRange, static_cast<uint8_t>(name), layer,
        RangeRecord{static_cast<int64_t>(ns), count * 100, count});
  }
  // Of the parts of a layer; `waited_ns` of them have gone by already.
  void layer(uint16_t layer, const LayerRecord& parts, uint64_t waited_ns = 0) {
    time_ns += static_cast<uint64_t>(parts.sum_ns()) - waited_ns;
    add(RecordType::kLayer, 0, layer, parts);
  }
  // The first `hits` are resident, the others are read.
  void picks(uint16_t layer, const std::vector<uint16_t>& experts, size_t hits) {
    const auto hit = experts.begin() + static_cast<std::ptrdiff_t>(hits);
    wave(layer, {experts.begin(), hit}, PickSource::kResident);
    wave(layer, {hit, experts.end()}, PickSource::kRead);
  }
  template <class Payload>
  void add(RecordType type, uint8_t detail, uint16_t layer, const Payload& payload) {
    Record r;
    r.time_ns = time_ns;
    r.type = type;
    r.detail = detail;
    r.layer = layer;
    r.step = step_;
    r.set(payload);
    records.push_back(r);
  }

  std::vector<Record> records;

 private:
  void wave(uint16_t layer, const std::vector<uint16_t>& experts, PickSource source) {
    if (experts.empty()) return;
    LayerRecord record;
    record.picks = static_cast<uint8_t>(experts.size());
    record.source = source;
    std::copy(experts.begin(), experts.end(), record.experts.begin());
    add(RecordType::kLayer, 0, layer, record);
  }

  uint32_t step_ = 0;
  uint64_t begin_ns_ = 0;
  int64_t position_ = 0, rows_ = 1;
};

}  // namespace hotset::test
