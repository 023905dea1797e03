// What an engine says of itself, in one place: typed records into the ring, and the same ranges to
// NVTX. Without a ring only NVTX hears of it, and no clock is read. The engine owns it; the cache
// and the device call it. Thread-safe, except that one thread at a time runs a step. Never blocks,
// never allocates.
#pragma once

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <utility>

#include "cache/expert_id.h"
#include "cache/records.h"
#include "cache/ring.h"
#include "cache/step_clock.h"
#include "kernels/cuda/nvtx.h"

namespace hotset {

class Recorder {
 public:
  explicit Recorder(std::unique_ptr<Ring> ring = nullptr);

  int64_t ring_bytes() const { return ring_ ? ring_->bytes() : 0; }

  // A span of time on this thread, until it goes out of scope. `layer` -1: none.
  class [[nodiscard]] Range {
   public:
    Range(Recorder& recorder, RangeName name, int32_t layer, int64_t count, int64_t bytes);
    ~Range();
    Range(const Range&) = delete;
    // What came of it, where that was not known when it began.
    void moved(int64_t count, int64_t bytes) {
      count_ = count;
      bytes_ = bytes;
    }

   private:
    Recorder& recorder_;
    const RangeName name_;
    const int32_t layer_;
    int64_t count_, bytes_;
    const uint64_t begin_ns_;
  };
  Range range(RangeName name, int32_t layer = -1, int64_t count = 0, int64_t bytes = 0) {
    return {*this, name, layer, count, bytes};
  }

  class [[nodiscard]] Stage {
   public:
    Stage(Recorder& recorder, RangeName name, int32_t layer);
    ~Stage();
    Stage(const Stage&) = delete;

   private:
    Recorder& recorder_;
    const RangeName name_;
    const int32_t layer_;
  };
  // A part of a step, on the step's thread. Parts follow each other: one begins when the one before
  // it ended, so that the clock is looked at once for both, which is most of what a record costs.
  // What lies between two of them is the later one's. Those of a layer are told of together, when
  // its kCombine ends, and the head with the step, which ends when it does.
  Stage stage(RangeName name, int32_t layer = -1) { return {*this, name, layer}; }

  // A step, on the thread that runs it. It has failed unless done() was called.
  class [[nodiscard]] Step {
   public:
    Step(Recorder& recorder, int64_t position, int64_t rows);
    ~Step();
    Step(const Step&) = delete;
    void done() { failed_ = 0; }

   private:
    Recorder& recorder_;
    StepRecord record_;
    int64_t failed_ = 1;
    uint64_t begin_ns_;
  };
  Step step(int64_t position, int64_t rows) { return {*this, position, rows}; }

  // `count` experts that a wave of a layer's event took, all served in the same way: at(i). On the
  // step's thread the last of them are told of with the layer's parts, or as soon as there are
  // more, or somebody is evicted: a pick is never told of after the end of what it picked.
  template <class Expert>
  void picks(int32_t layer, size_t count, PickSource source, const Expert& at) {
    if (!ring_) return;
    for (size_t first = 0; first < count; first += LayerRecord::kPicksMost) {
      LayerRecord own;
      const bool is_of_step = is_steps_thread();
      LayerRecord& record = is_of_step ? layer_without_picks(layer) : own;
      record.picks = static_cast<uint8_t>(std::min<size_t>(count - first, LayerRecord::kPicksMost));
      record.source = source;
      for (size_t i = 0; i < record.picks; ++i) {
        record.experts[i] = static_cast<uint16_t>(at(first + i));
      }
      if (!is_of_step) write(RecordType::kLayer, 0, layer, record);
    }
  }
  // An expert has been read into a slot's place, which took `duration_ns` in all.
  void read(TransferCause cause, ExpertId id, int64_t bytes, int64_t duration_ns);
  // ... has been copied to the card, which the host saw so long after it began.
  void copied(TransferCause cause, ExpertId id, int64_t bytes, int64_t duration_ns);
  void admit(ExpertId id, SlotId slot, int64_t bytes);
  void evict(ExpertId id, SlotId slot, int64_t bytes);
  void budget(int64_t bytes_before, int64_t bytes_after);
  void error(std::string_view message);
  // Of `picked` experts of a layer `predicted` had been named before, `right` of them rightly.
  void prediction(int32_t layer, int32_t predicted, int32_t right, int32_t picked);
  void guard(GuardLane lane, bool is_on, double gain_ms);
  void card(const CardRecord& step);

 private:
  uint64_t now_ns();  // 0 without a ring
  bool is_steps_thread() const {
    return step_thread_.load(std::memory_order_relaxed) == pthread_self();
  }
  void end_stage(RangeName name, int32_t layer);
  LayerRecord& layer_without_picks(int32_t layer);
  void begin_layer(int32_t layer);
  void write_layer();
  void write_picks();
  template <class Payload>
  void write(RecordType type, uint8_t detail, int32_t layer, const Payload& payload,
             uint64_t time_ns = 0);

  const std::unique_ptr<Ring> ring_;
  const NvtxDomain nvtx_;
  std::atomic<uint32_t> step_{0};
  std::atomic<pthread_t> step_thread_{};  // of the running step, or nobody's
  // That thread's own:
  StepClock clock_;
  uint64_t stage_ns_;      // when the step began, or its last stage ended
  bool has_head_ = false;  // the head has ended, and the step ends next
  LayerRecord record_;     // of the layer that has begun,
  int32_t layer_ = -1;     // or of none
};

}  // namespace hotset
