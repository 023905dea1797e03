#include "profiler/timeline.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>

namespace hotset {
namespace {

constexpr uint16_t kNoLayer = 0xffff;

struct Event {
  const char* name;
  int64_t begin_ns, duration_ns, bytes, count;
  const Record* record;
};

// Those of a record: none, one, a step with its head, or a layer's parts.
void add_events(const Record& r, std::vector<Event>& events) {
  auto end_ns = static_cast<int64_t>(r.time_ns);
  const auto add = [&](RangeName name, int64_t ns, int64_t bytes, int64_t count) {
    events.push_back({range_name(name), end_ns - ns, ns, bytes, count, &r});
  };
  if (r.type == RecordType::kStepEnd) {
    const auto step = r.as<StepRecord>();
    add(step.rows == 1 ? RangeName::kToken : RangeName::kPrompt, step.duration_ns, 0, step.rows);
    if (step.head_ns > 0) add(RangeName::kHead, step.head_ns, 0, 0);
  } else if (r.type == RecordType::kRange) {
    const auto range = r.as<RangeRecord>();
    add(static_cast<RangeName>(r.detail), range.duration_ns, range.bytes, range.count);
  } else if (r.type == RecordType::kLayer) {
    const auto layer = r.as<LayerRecord>();
    for (int i = LayerRecord::kParts - 1; i >= 0; --i) {
      const int64_t ns = layer.ns[static_cast<size_t>(i)];
      // One that the step did not come to.
      if (ns > 0) add(LayerRecord::part(i), ns, 0, 0);
      end_ns -= ns;
    }
  }
}

}  // namespace

Timeline::Timeline(const std::string& ring_path)
    : reader_(ring_path),
      lanes_(reader_.lane_count()),
      thread_([this](const std::stop_token& stop) {
        constexpr auto kPeriod = std::chrono::milliseconds(20);
        std::unique_lock lock(mutex_);
        while (!stop.stop_requested()) {
          collect();
          wake_.wait_for(lock, stop, kPeriod, [] { return false; });
        }
      }) {}

void Timeline::collect() {
  for (size_t lane = 0; lane < lanes_.size(); ++lane) reader_.drain_lane(lane, lanes_[lane]);
}

std::string Timeline::finish() {
  thread_.request_stop();
  thread_.join();
  collect();
  std::string out = "{\"displayTimeUnit\":\"ms\",\"traceEvents\":[";
  const char* separator = "\n";
  for (size_t lane = 0; lane < lanes_.size(); ++lane) {
    // Ranges are recorded when they end, the outer after the inner: by begin and length the outer
    // comes first.
    std::vector<Event> events;
    for (const Record& record : lanes_[lane]) add_events(record, events);
    std::stable_sort(events.begin(), events.end(), [](const Event& a, const Event& b) {
      return a.begin_ns != b.begin_ns ? a.begin_ns < b.begin_ns : a.duration_ns > b.duration_ns;
    });
    for (const Event& event : events) {
      const Record& record = *event.record;
      out += fmt::format(
          "{}{{\"name\":\"{}\",\"ph\":\"X\",\"ts\":{}.{:03},\"dur\":{}.{:03},\"pid\":{},"
          "\"tid\":{},\"args\":{{\"step\":{},\"layer\":{},\"bytes\":{},\"count\":{}}}}}",
          separator, event.name, event.begin_ns / 1000, event.begin_ns % 1000,
          event.duration_ns / 1000, event.duration_ns % 1000, reader_.header().pid, lane,
          record.step, record.layer == kNoLayer ? -1 : record.layer, event.bytes, event.count);
      separator = ",\n";
    }
  }
  return out + "\n]}\n";
}

}  // namespace hotset
