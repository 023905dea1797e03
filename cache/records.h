// What an engine tells its watchers: fixed-size records in a ring (cache/ring.h). Every record is
// seven words: a head of two and a payload of five, whose meaning the type gives. Times are
// CLOCK_MONOTONIC in ns, which all processes of a machine share.
//
// The numbers of types, ranges, sources and causes are part of the ring's format: new ones are
// added at the end, and a change of what exists raises kRingVersion.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>

namespace hotset {

enum class RecordType : uint8_t {
  kStepBegin = 1,  // StepRecord; time: when it began
  kStepEnd,        // StepRecord
  kLayer,          // LayerRecord: a layer's parts and picks; time: when the last part ended
  kRange,          // RangeRecord; detail: RangeName, of no part
  kTransfer,       // TransferRecord; detail: TransferCause
  kAdmit,          // SlotRecord: an expert became resident
  kEvict,          // SlotRecord: ... and absent again
  kBudget,         // BudgetRecord
  kError,          // ErrorRecord
  kPrediction,     // PredictionRecord: what a predictor said of a layer, and what was right
  kGuard,          // GuardRecord; detail: GuardLane
  kCard,           // CardRecord: how a card's slots served a step, at its end
};

// Spans of time on one thread; also the names of NVTX ranges and of the Chrome trace. The parts of
// a step, which follow each other without a gap, are each layer's kMixer to kCombine, and kHead.
enum class RangeName : uint8_t {
  kToken,     // a step of one row
  kPrompt,    // a step of more rows
  kMixer,     // attention or delta net of a layer
  kRouter,    // norm, router logits and picks
  kExperts,   // routed experts of a layer with their waits, and the shared one
  kCombine,   // a layer's outputs into the rows
  kHead,      // final norm and logits
  kReadWait,  // the step waits for its own reads: `bytes` in `count` of them
  kFillWait,  // ... for reads that others had begun
  kCardWait,  // ... for the card, and for the misses that the host computes for it
  kRead,      // one expert from the file into a slot, on the thread that reads
  kCopy,      // experts from host memory to the card, on the thread that puts them on their way
};
inline constexpr int kRangeNames = 12;
constexpr bool is_part(RangeName name) {
  return name >= RangeName::kMixer && name <= RangeName::kHead;
}
constexpr const char* range_name(RangeName name) {
  constexpr const char* kNames[kRangeNames] = {"token",     "prompt",    "mixer", "router",
                                               "experts",   "combine",   "head",  "read wait",
                                               "fill wait", "card wait", "read",  "copy"};
  return kNames[static_cast<int>(name)];
}

// How a pick was served. What counts as a hit is what CacheStats counts as one.
enum class PickSource : uint8_t {
  kResident,  // hit
  kRead,      // miss: read while the step waited
  kAwaited,   // miss: somebody was reading it already
  kHost,      // miss of a card: computed on the CPU
  kCopied,    // miss of a card: copied first
};
inline constexpr int kPickSources = 5;
constexpr const char* pick_source_name(PickSource source) {
  constexpr const char* kNames[kPickSources] = {"resident", "read", "awaited", "host", "copied"};
  return kNames[static_cast<int>(source)];
}

enum class TransferCause : uint8_t {
  kMiss,
  kFill,
  kPrefetch,
  kAdmission,
  kPrompt,  // for a prompt's layer alone: into no slot
};
inline constexpr int kTransferCauses = 5;
constexpr const char* transfer_cause_name(TransferCause cause) {
  constexpr const char* kNames[kTransferCauses] = {"miss", "fill", "prefetch", "admission",
                                                   "prompt"};
  return kNames[static_cast<int>(cause)];
}

enum class GuardLane : uint8_t { kCache, kPrefetch, kCopies };
inline constexpr int kGuardLanes = 3;
constexpr const char* guard_lane_name(GuardLane lane) {
  constexpr const char* kNames[kGuardLanes] = {"cache", "prefetch", "copies"};
  return kNames[static_cast<int>(lane)];
}

struct StepRecord {
  int64_t position = 0;  // of the first row
  int64_t rows = 0;
  // Of kStepEnd:
  int64_t duration_ns = 0;
  int64_t failed = 0;   // 1: an Error ended it
  int64_t head_ns = 0;  // of kHead, its last part, which ends with it; 0: it did not come to that
};
struct RangeRecord {
  int64_t duration_ns = 0;  // it began that long before `time_ns`
  int64_t bytes = 0;
  int64_t count = 0;
  int64_t unused[2] = {};
};
// How long each part of a layer took in a step, and experts that it picked, all served in the same
// way. The parts follow each other without a gap, the last ended at `time_ns`. One record for all
// of it, since each is a line of memory that watcher and engine share; or several, which add up:
// where there are more picks or other sources, and where a part takes longer than its number can
// say.
struct LayerRecord {
  static constexpr int kParts = 4, kPicksMost = 11;
  static constexpr RangeName part(int i) {
    return static_cast<RangeName>(static_cast<int>(RangeName::kMixer) + i);
  }
  std::array<uint32_t, kParts> ns = {};
  std::array<uint16_t, kPicksMost> experts = {};  // the first `picks` of them
  uint8_t picks = 0;
  PickSource source = {};  // of all of them

  constexpr int64_t sum_ns() const { return int64_t{ns[0]} + ns[1] + ns[2] + ns[3]; }
  uint32_t& of(RangeName name) {
    return ns[static_cast<size_t>(name) - static_cast<size_t>(RangeName::kMixer)];
  }
  // What of `more_ns` no longer fits: of a process that was stopped for an hour, most.
  uint64_t add(RangeName name, uint64_t more_ns) {
    const uint64_t fits = std::min<uint64_t>(more_ns, UINT32_MAX - of(name));
    of(name) += static_cast<uint32_t>(fits);
    return more_ns - fits;
  }
};
struct TransferRecord {
  int64_t duration_ns = 0;
  int64_t bytes = 0;
  int32_t expert = 0;
  int32_t to_card = 0;  // 0: from the file to host memory
  int64_t unused[2] = {};
};
struct SlotRecord {
  int32_t expert = 0;
  int32_t slot = 0;
  int64_t bytes = 0;  // of the slot
  int64_t unused[3] = {};
};
struct BudgetRecord {
  int64_t bytes_before = 0, bytes_after = 0;
  int64_t unused[3] = {};
};
struct ErrorRecord {
  char text[40] = {};  // the beginning of the message; not ended by a zero where it fills this
};
struct PredictionRecord {
  int32_t predicted = 0, right = 0, picked = 0, unused_word = 0;
  int64_t unused[3] = {};
};
struct GuardRecord {
  int64_t is_on = 0;
  double gain_ms = 0;  // measured, a token; negative: it lost
  int64_t unused[3] = {};
};

struct CardRecord {
  int64_t hits = 0, misses = 0;  // distinct experts of each layer, by whether the card had them
  int64_t slot_bytes = 0, resident_bytes = 0;
  int64_t unused = 0;
};

struct Record {
  static constexpr int kPayloadWords = 5;
  using Payload = std::array<uint64_t, kPayloadWords>;

  uint64_t time_ns = 0;  // when it ended
  RecordType type = {};
  uint8_t detail = 0;
  uint16_t layer = 0;
  uint32_t step = 0;  // counted from 1 by the engine; 0: outside any
  Payload payload = {};

  template <class T>
  T as() const {
    static_assert(sizeof(T) == sizeof(Payload));
    return std::bit_cast<T>(payload);
  }
  template <class T>
  void set(const T& value) {
    static_assert(sizeof(T) == sizeof(Payload));
    payload = std::bit_cast<Payload>(value);
  }
};
static_assert(sizeof(Record) == 56);

}  // namespace hotset
