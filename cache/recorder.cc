#include "cache/recorder.h"

#include <algorithm>
#include <cstring>

namespace hotset {
namespace {

constexpr uint16_t kNoLayer = 0xffff;

std::array<const char*, kRangeNames> range_names() {
  std::array<const char*, kRangeNames> names;
  for (int i = 0; i < kRangeNames; ++i) names[i] = range_name(static_cast<RangeName>(i));
  return names;
}

}  // namespace

Recorder::Recorder(std::unique_ptr<Ring> ring)
    : ring_(std::move(ring)), nvtx_(range_names()), stage_ns_(now_ns()) {}

// What lies within a part of a step is timed by the same clock as the part, so that it does not
// seem to stick out of it.
uint64_t Recorder::now_ns() {
  if (!ring_) return 0;
  return is_steps_thread() ? clock_.now() : monotonic_ns();
}

template <class Payload>
void Recorder::write(RecordType type, uint8_t detail, int32_t layer, const Payload& payload,
                     uint64_t time_ns) {
  if (!ring_) return;
  Record record;
  record.time_ns = time_ns != 0 ? time_ns : now_ns();
  record.type = type;
  record.detail = detail;
  record.layer = layer < 0 ? kNoLayer : static_cast<uint16_t>(layer);
  record.step = step_.load(std::memory_order_relaxed);
  record.set(payload);
  ring_->write(record);
}
template void Recorder::write(RecordType, uint8_t, int32_t, const LayerRecord&, uint64_t);

Recorder::Range::Range(Recorder& recorder, RangeName name, int32_t layer, int64_t count,
                       int64_t bytes)
    : recorder_(recorder),
      name_(name),
      layer_(layer),
      count_(count),
      bytes_(bytes),
      begin_ns_(recorder.now_ns()) {
  recorder.nvtx_.push(static_cast<int>(name), layer, recorder.step_.load(std::memory_order_relaxed),
                      bytes);
}

Recorder::Range::~Range() {
  recorder_.nvtx_.pop();
  const uint64_t now = recorder_.now_ns();
  recorder_.write(RecordType::kRange, static_cast<uint8_t>(name_), layer_,
                  RangeRecord{static_cast<int64_t>(now - begin_ns_), bytes_, count_}, now);
}

Recorder::Stage::Stage(Recorder& recorder, RangeName name, int32_t layer)
    : recorder_(recorder), name_(name), layer_(layer) {
  recorder.nvtx_.push(static_cast<int>(name), layer, recorder.step_.load(std::memory_order_relaxed),
                      0);
}

Recorder::Stage::~Stage() {
  recorder_.nvtx_.pop();
  recorder_.end_stage(name_, layer_);
}

void Recorder::end_stage(RangeName name, int32_t layer) {
  if (!ring_) return;
  if (name == RangeName::kHead) {
    has_head_ = true;
    return;
  }
  const uint64_t now = now_ns();
  begin_layer(layer);
  uint64_t more_ns = record_.add(name, now - stage_ns_);
  while (more_ns > 0) {
    stage_ns_ = now - more_ns;
    write_layer();
    begin_layer(layer);
    more_ns = record_.add(name, more_ns);
  }
  stage_ns_ = now;
  if (name == RangeName::kCombine) write_layer();
}

void Recorder::begin_layer(int32_t layer) {
  if (layer_ >= 0 && layer_ != layer) write_layer();
  layer_ = layer;
}

void Recorder::write_layer() {
  write(RecordType::kLayer, 0, layer_, record_, stage_ns_);
  record_ = {};
  layer_ = -1;
}

LayerRecord& Recorder::layer_without_picks(int32_t layer) {
  begin_layer(layer);
  write_picks();
  return record_;
}

// Ahead of the parts, which have not all ended.
void Recorder::write_picks() {
  if (record_.picks == 0) return;
  LayerRecord picks = record_;
  picks.ns = {};
  write(RecordType::kLayer, 0, layer_, picks);
  record_.picks = 0;
}

Recorder::Step::Step(Recorder& recorder, int64_t position, int64_t rows)
    : recorder_(recorder),
      record_{position, rows},
      begin_ns_(recorder.ring_ ? recorder.clock_.look() : 0) {
  const uint32_t step = recorder.step_.load(std::memory_order_relaxed) + 1;
  recorder.step_.store(step, std::memory_order_relaxed);
  if (recorder.ring_) recorder.ring_->take_step_lane();
  const RangeName name = rows == 1 ? RangeName::kToken : RangeName::kPrompt;
  recorder.nvtx_.push(static_cast<int>(name), -1, step, 0);
  recorder.step_thread_.store(pthread_self(), std::memory_order_relaxed);
  recorder.stage_ns_ = begin_ns_;
  recorder.has_head_ = false;
  recorder.write(RecordType::kStepBegin, 0, -1, record_, begin_ns_);
}

Recorder::Step::~Step() {
  recorder_.nvtx_.pop();
  if (recorder_.layer_ >= 0) recorder_.write_layer();  // an error has cut it off
  const uint64_t now = recorder_.now_ns();
  recorder_.step_thread_.store({}, std::memory_order_relaxed);
  record_.duration_ns = static_cast<int64_t>(now - begin_ns_);
  record_.failed = failed_;
  if (recorder_.has_head_) record_.head_ns = static_cast<int64_t>(now - recorder_.stage_ns_);
  recorder_.write(RecordType::kStepEnd, 0, -1, record_, now);
}

void Recorder::read(TransferCause cause, ExpertId id, int64_t bytes, int64_t duration_ns) {
  write(RecordType::kTransfer, static_cast<uint8_t>(cause), id.layer,
        TransferRecord{duration_ns, bytes, id.expert, 0});
}

void Recorder::copied(TransferCause cause, ExpertId id, int64_t bytes, int64_t duration_ns) {
  write(RecordType::kTransfer, static_cast<uint8_t>(cause), id.layer,
        TransferRecord{duration_ns, bytes, id.expert, 1});
}

void Recorder::admit(ExpertId id, SlotId slot, int64_t bytes) {
  if (ring_) ring_->gauges().resident_bytes.fetch_add(bytes, std::memory_order_relaxed);
  write(RecordType::kAdmit, 0, id.layer, SlotRecord{id.expert, slot, bytes});
}

void Recorder::evict(ExpertId id, SlotId slot, int64_t bytes) {
  if (ring_ && is_steps_thread()) write_picks();
  if (ring_) ring_->gauges().resident_bytes.fetch_sub(bytes, std::memory_order_relaxed);
  write(RecordType::kEvict, 0, id.layer, SlotRecord{id.expert, slot, bytes});
}

void Recorder::budget(int64_t bytes_before, int64_t bytes_after) {
  if (ring_) ring_->gauges().budget_bytes.store(bytes_after, std::memory_order_relaxed);
  write(RecordType::kBudget, 0, -1, BudgetRecord{bytes_before, bytes_after});
}

void Recorder::error(std::string_view message) {
  ErrorRecord record;
  std::memcpy(record.text, message.data(), std::min(message.size(), sizeof record.text));
  write(RecordType::kError, 0, -1, record);
}

void Recorder::prediction(int32_t layer, int32_t predicted, int32_t right, int32_t picked) {
  write(RecordType::kPrediction, 0, layer, PredictionRecord{predicted, right, picked});
}

void Recorder::guard(GuardLane lane, bool is_on, double gain_ms) {
  write(RecordType::kGuard, static_cast<uint8_t>(lane), -1, GuardRecord{is_on ? 1 : 0, gain_ms});
}

void Recorder::card(const CardRecord& step) {
  write(RecordType::kCard, 0, -1, step);
}

}  // namespace hotset
