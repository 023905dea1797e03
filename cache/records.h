// What an engine tells its watchers: fixed-size records in a ring (cache/ring.h). Every record is
// seven words: a head of two and a payload of five, whose meaning the type gives. Times are
// CLOCK_MONOTONIC in ns, which all processes of a machine share.
//
// The numbers of types, ranges, sources and causes are part of the ring's format: new ones are
// added at the end, and a change of what exists raises kRingVersion.
#pragma once

#include <array>
#include <bit>
#include <cstdint>

namespace hotset {

enum class RecordType : uint8_t {
  kStepBegin = 1,  // StepRecord; time: when it began
  kStepEnd,        // StepRecord
  kPicks,          // PicksRecord: experts of a layer's event, at most 16 a record
  kRange,          // RangeRecord; detail: RangeName, of none of a layer's parts
  kTransfer,       // TransferRecord; detail: TransferCause
  kAdmit,          // SlotRecord: an expert became resident
  kEvict,          // SlotRecord: ... and absent again
  kBudget,         // BudgetRecord
  kError,          // ErrorRecord
  kPrediction,     // PredictionRecord: what a predictor said of a layer, and what was right
  kGuard,          // GuardRecord; detail: GuardLane
  kLayer,          // LayerRecord: the parts of a layer, when the last of them ended
  kCard,           // CardRecord: how a card's slots served a step, at its end
};

// Spans of time on one thread; also the names of NVTX ranges and of the Chrome trace. The parts of
// a layer, which every step has in this order, are kMixer to kCombine.
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
  int64_t duration_ns = 0;  // of kStepEnd
  int64_t failed = 0;       // 1: an Error ended it
  int64_t unused = 0;
};
struct PicksRecord {
  static constexpr int kMost = 16;
  uint16_t experts[kMost] = {};  // the first `detail` of them
  uint64_t sources = 0;          // 4 bits each: PickSource

  PickSource source(int i) const { return static_cast<PickSource>(sources >> (4 * i) & 15); }
};
struct RangeRecord {
  int64_t duration_ns = 0;  // it began that long before `time_ns`
  int64_t bytes = 0;
  int64_t count = 0;
  int64_t unused[2] = {};
};
// How long each part of a layer took in a step. They follow each other without a gap, the last
// ended at `time_ns`: one record for all, since each is a line of memory that watcher and engine
// share.
struct LayerRecord {
  static constexpr int kParts = 4;
  static constexpr RangeName part(int i) {
    return static_cast<RangeName>(static_cast<int>(RangeName::kMixer) + i);
  }
  std::array<int64_t, kParts> ns = {};
  int64_t unused = 0;

  constexpr int64_t sum_ns() const { return ns[0] + ns[1] + ns[2] + ns[3]; }
  static constexpr bool has(RangeName name) {
    return name >= RangeName::kMixer && name <= RangeName::kCombine;
  }
  int64_t& of(RangeName name) {
    return ns[static_cast<size_t>(name) - static_cast<size_t>(RangeName::kMixer)];
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
