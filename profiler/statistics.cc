#include "profiler/statistics.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace hotset {
namespace {

constexpr uint64_t kNsPerSecond = 1000000000;
constexpr double kHeatHalfLifeSeconds = 60;

void add(TransferCounts& counts, const TransferRecord& t) {
  ++counts.count;
  counts.bytes += static_cast<uint64_t>(t.bytes);
  counts.ns += static_cast<uint64_t>(t.duration_ns);
}

void add(TimeCounts& to, const TimeCounts& from) {
  to.tokens += from.tokens;
  to.prompt_rows += from.prompt_rows;
  to.compute_ns += from.compute_ns;
  to.read_wait_ns += from.read_wait_ns;
  to.card_wait_ns += from.card_wait_ns;
  to.other_ns += from.other_ns;
}

// It goes to terminals and pages.
std::string text_of(const ErrorRecord& error) {
  std::string text(error.text, std::find(error.text, std::end(error.text), '\0'));
  for (char& c : text) c = c >= 0x20 && c < 0x7f ? c : '?';
  return text;
}

}  // namespace

uint64_t PickCounts::misses() const {
  return std::accumulate(by_source.begin() + 1, by_source.end(), uint64_t{0});
}

double PickCounts::hit_rate() const {
  const uint64_t all = hits() + misses();
  return all == 0 ? 0.0 : static_cast<double>(hits()) / static_cast<double>(all);
}

PickCounts& PickCounts::operator+=(const PickCounts& other) {
  for (int s = 0; s < kPickSources; ++s) by_source[s] += other.by_source[s];
  return *this;
}

Statistics::Statistics(const RingHeader& header)
    : layers_(header.layers),
      experts_(header.experts_per_layer),
      k_(std::clamp(header.picks_per_row, 1, header.experts_per_layer)),
      layer_picks_(layers_),
      seconds_(kSeconds),
      heat_(static_cast<size_t>(layers_) * experts_),
      use_(heat_.size()),
      evicted_in_(heat_.size()),
      is_in_event_(experts_),
      reuses_(experts_),
      rank_(heat_.size(), kNeverUsed),
      moves_(experts_) {
  for (Second& second : seconds_) second.layers.resize(layers_);
}

Statistics::Second& Statistics::second_of(uint64_t time_ns) {
  const uint64_t second = time_ns / kNsPerSecond;
  Second& slot = seconds_[second % kSeconds];
  if (slot.second != second) {
    std::fill(slot.layers.begin(), slot.layers.end(), PickCounts{});
    slot.card = {};
    slot.time = {};
    slot.second = second;
  }
  return slot;
}

PickCounts Statistics::recent_picks(uint64_t now_ns, int seconds, int32_t layer) const {
  PickCounts sum;
  const uint64_t now = now_ns / kNsPerSecond;
  for (const Second& s : seconds_) {
    if (s.second > now || s.second + seconds <= now) continue;
    if (layer >= 0) {
      sum += s.layers[layer];
    } else {
      for (const PickCounts& counts : s.layers) sum += counts;
    }
  }
  return sum;
}

TimeCounts Statistics::recent_time(uint64_t now_ns, int seconds) const {
  TimeCounts sum;
  const uint64_t now = now_ns / kNsPerSecond;
  for (const Second& s : seconds_) {
    if (s.second <= now && s.second + seconds > now) add(sum, s.time);
  }
  return sum;
}

PickCounts Statistics::recent_card_picks(uint64_t now_ns, int seconds) const {
  PickCounts sum;
  const uint64_t now = now_ns / kNsPerSecond;
  for (const Second& s : seconds_) {
    if (s.second <= now && s.second + seconds > now) sum += s.card;
  }
  return sum;
}

double Statistics::recent_rate(uint64_t now_ns, int seconds) const {
  const uint64_t now = now_ns / kNsPerSecond, others = static_cast<uint64_t>(seconds) - 1;
  const uint64_t begin_ns = std::max((now - std::min(now, others)) * kNsPerSecond, first_begin_ns_);
  if (begin_ns >= now_ns) return 0;
  const auto tokens = static_cast<double>(recent_time(now_ns, seconds).tokens);
  return tokens * 1e9 / static_cast<double>(now_ns - begin_ns);
}

const TransferCounts& Statistics::reads(TransferCause cause) const {
  return reads_[static_cast<size_t>(cause)];
}
const TransferCounts& Statistics::copies(TransferCause cause) const {
  return copies_[static_cast<size_t>(cause)];
}
uint64_t Statistics::bytes_read() const {
  uint64_t sum = 0;
  for (const TransferCounts& counts : reads_) sum += counts.bytes;
  return sum;
}

Histogram Statistics::reuse_distance() const {
  Histogram distances;
  for (size_t d = 0; d < reuses_.size(); ++d) distances.add(d, reuses_[d]);
  return distances;
}

void Statistics::fade(double seconds) {
  const auto factor = static_cast<float>(std::exp2(-seconds / kHeatHalfLifeSeconds));
  for (float& heat : heat_) heat *= factor;
}

void Statistics::absorb(std::span<const Record> records,
                        const std::function<void(const Token&)>& on_token) {
  for (const Record& r : records) {
    switch (r.type) {
      case RecordType::kStepBegin:
        end_event();
        begin_step(r);
        break;
      case RecordType::kStepEnd:
        end_event();
        end_step(r, on_token);
        break;
      case RecordType::kLayer:
        absorb_layer(r);
        break;
      case RecordType::kRange:
        absorb_range(r);
        break;
      case RecordType::kTransfer: {
        const auto t = r.as<TransferRecord>();
        add((t.to_card != 0 ? copies_ : reads_)[r.detail], t);
        if (t.to_card == 0) read_ns_.add(static_cast<uint64_t>(t.duration_ns));
        break;
      }
      case RecordType::kAdmit:
        ++admissions_;
        use_[index(r.layer, r.as<SlotRecord>().expert)] = Use::kAdmitted;
        break;
      case RecordType::kEvict:
        absorb_eviction(r);
        break;
      case RecordType::kBudget:
        ++budget_changes_;
        break;
      case RecordType::kError:
        ++errors_;
        last_error_ = text_of(r.as<ErrorRecord>());
        break;
      case RecordType::kPrediction: {
        const auto p = r.as<PredictionRecord>();
        predicted_ += static_cast<uint64_t>(p.predicted);
        predicted_right_ += static_cast<uint64_t>(p.right);
        predicted_of_ += static_cast<uint64_t>(p.picked);
        break;
      }
      case RecordType::kGuard: {
        const auto g = r.as<GuardRecord>();
        Guard& guard = guards_[r.detail];
        guard = {true, g.is_on != 0, g.gain_ms, guard.changes + 1};
        break;
      }
      case RecordType::kCard:
        absorb_card(r);
        break;
    }
  }
}

void Statistics::begin_step(const Record& record) {
  const auto begin = record.as<StepRecord>();
  if (first_begin_ns_ == 0) first_begin_ns_ = record.time_ns;
  token_ = {};
  token_.step = record.step;
  token_.position = begin.position;
  token_.rows = begin.rows;
  token_.is_complete = true;
  if (begin.position == next_position_ && record.time_ns >= last_end_ns_) {
    token_.gap_ns = static_cast<int64_t>(record.time_ns - last_end_ns_);
    token_.follows = true;
  }
}

void Statistics::absorb_layer(const Record& record) {
  const auto layer = record.as<LayerRecord>();
  if (is_of_token(record)) token_.compute_ns += layer.sum_ns();
  if (layer.picks == 0) return;
  if (record.layer != event_layer_) end_event();
  event_layer_ = record.layer;
  const auto source = static_cast<size_t>(layer.source);
  picks_.by_source[source] += layer.picks;
  layer_picks_[record.layer].by_source[source] += layer.picks;
  second_of(record.time_ns).layers[record.layer].by_source[source] += layer.picks;
  for (const uint16_t expert : std::span(layer.experts).first(layer.picks)) {
    const size_t at = index(record.layer, expert);
    heat_[at] += 1;
    if (layer.source == PickSource::kResident) count_hit(at, record.step);
    if (is_in_event_[expert]) continue;  // which an engine does not write
    is_in_event_[expert] = true;
    event_.push_back(expert);
  }
}

void Statistics::absorb_eviction(const Record& record) {
  const size_t at = index(record.layer, record.as<SlotRecord>().expert);
  ++evictions_;
  if (use_[at] == Use::kAdmitted) {
    ++evictions_unhit_;
    use_[at] = Use::kEvictedUnhit;
    evicted_in_[at] = record.step;
  } else {
    use_[at] = Use::kUnknown;
  }
}

// A layer's picks are told of when it ends, and another thread may have evicted one of them
// meanwhile: within a step, who is resident after its eviction, and has not come again, was hit
// before it.
void Statistics::count_hit(size_t at, uint32_t step) {
  Use& use = use_[at];
  if (use == Use::kAdmitted) {
    ++admissions_hit_;
    use = Use::kHit;
  } else if (use == Use::kEvictedUnhit) {
    if (evicted_in_[at] == step) {
      ++admissions_hit_;
      --evictions_unhit_;
    }
    use = Use::kUnknown;
  }
}

// An event's picks are used at once: none of them counts in the distance of another that was used
// before it. Afterwards the first of them is the one that was used last, as for the policies.
void Statistics::end_event() {
  if (event_layer_ < 0) return;
  const std::span<int16_t> ranks =
      std::span(rank_).subspan(index(event_layer_, 0), static_cast<size_t>(experts_));
  for (const uint16_t expert : event_) {
    const int16_t distance = ranks[expert];
    if (distance == kNeverUsed) {
      ++first_uses_;
      continue;
    }
    ++reuses_[static_cast<size_t>(distance)];
    familiar_ += distance < 4 * k_ ? 1 : 0;
  }
  familiar_of_ += event_.size();
  move_back(ranks);
  int16_t rank = 0;
  for (const uint16_t expert : event_) {
    ranks[expert] = rank++;
    is_in_event_[expert] = false;
  }
  event_.clear();
  event_layer_ = -1;
}

// Every expert by one for each of the event's that was used before it. Here the daemon spends most
// of its time: the compiler compares several experts at once, each with four of the event's.
void Statistics::move_back(std::span<int16_t> ranks) {
  constexpr size_t kAtOnce = 4;
  std::fill(moves_.begin(), moves_.end(), int16_t{0});
  for (size_t i = 0; i < event_.size(); i += kAtOnce) {
    std::array<int16_t, kAtOnce> of = {};  // where there is none: nobody is before the first
    for (size_t j = i; j < std::min(i + kAtOnce, event_.size()); ++j) of[j - i] = ranks[event_[j]];
    for (size_t e = 0; e < ranks.size(); ++e) {
      const int16_t rank = ranks[e];
      moves_[e] = static_cast<int16_t>(moves_[e] + (rank < of[0]) + (rank < of[1]) +
                                       (rank < of[2]) + (rank < of[3]));
    }
  }
  for (size_t e = 0; e < ranks.size(); ++e) ranks[e] = static_cast<int16_t>(ranks[e] + moves_[e]);
}

void Statistics::absorb_range(const Record& record) {
  if (!is_of_token(record)) return;
  const auto range = record.as<RangeRecord>();
  switch (static_cast<RangeName>(record.detail)) {
    case RangeName::kReadWait:
    case RangeName::kFillWait:
      token_.read_wait_ns += range.duration_ns;
      token_.reads += range.count;
      token_.read_bytes += range.bytes;
      break;
    case RangeName::kCardWait:
      token_.card_wait_ns += range.duration_ns;
      return;
    default:
      return;
  }
  if (token_.waits.empty() || token_.waits.back().layer != record.layer) {
    token_.waits.push_back({record.layer, 0});
  }
  token_.waits.back().ns += range.duration_ns;
}

void Statistics::absorb_card(const Record& record) {
  const auto step = record.as<CardRecord>();
  PickCounts picks;
  picks.by_source[static_cast<size_t>(PickSource::kResident)] = static_cast<uint64_t>(step.hits);
  picks.by_source[static_cast<size_t>(PickSource::kHost)] = static_cast<uint64_t>(step.misses);
  card_.picks += picks;
  second_of(record.time_ns).card += picks;
  card_.is_known = true;
  card_.slot_bytes = step.slot_bytes;
  card_.resident_bytes = step.resident_bytes;
}

void Statistics::end_step(const Record& record, const std::function<void(const Token&)>& on_token) {
  const auto end = record.as<StepRecord>();
  const bool is_whole = is_of_token(record);
  next_position_ = end.failed != 0 ? -1 : end.position + end.rows;
  last_end_ns_ = record.time_ns;
  if (!is_whole) return;
  token_.step_ns = end.duration_ns;
  token_.failed = end.failed != 0;
  token_.compute_ns += end.head_ns;
  // A wait for the card holds the reads of what the host computes for it meanwhile.
  token_.card_wait_ns -= std::min(token_.card_wait_ns, token_.read_wait_ns);
  // The parts hold the waits.
  token_.compute_ns -= std::min(token_.compute_ns, token_.read_wait_ns + token_.card_wait_ns);
  notice_topic();
  TimeCounts counts;
  if (token_.rows > 1) {
    counts.prompt_rows = static_cast<uint64_t>(token_.rows);
  } else if (!token_.failed) {
    counts.tokens = 1;
    counts.compute_ns = static_cast<uint64_t>(token_.compute_ns);
    counts.read_wait_ns = static_cast<uint64_t>(token_.read_wait_ns);
    counts.card_wait_ns = static_cast<uint64_t>(token_.card_wait_ns);
    counts.other_ns = static_cast<uint64_t>(std::max<int64_t>(0, token_.other_ns()));
    if (token_.follows) token_ns_.add(static_cast<uint64_t>(token_.latency_ns()));
  }
  add(time_, counts);
  add(second_of(record.time_ns).time, counts);
  on_token(token_);
  token_.is_complete = false;
}

// The topic has changed when far fewer of a token's picks than usual were used shortly before. It
// explains what is slow for some tokens after that.
void Statistics::notice_topic() {
  constexpr double kDrop = 0.2, kWeight = 1.0 / 32;
  constexpr int kTokens = 8;
  if (familiar_of_ > 0) {
    const double familiar = static_cast<double>(familiar_) / static_cast<double>(familiar_of_);
    if (usually_familiar_ < 0) usually_familiar_ = familiar;
    ++since_topic_change_;
    if (familiar < usually_familiar_ - kDrop) since_topic_change_ = 0;
    usually_familiar_ += kWeight * (familiar - usually_familiar_);
  }
  token_.after_topic_change = since_topic_change_ < kTokens;
  familiar_ = familiar_of_ = 0;
}

}  // namespace hotset
