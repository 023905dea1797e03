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
};

// False for records that are no span of time.
bool event_of(const Record& r, Event& event) {
  const auto with = [&](RangeName name, int64_t ns, int64_t bytes, int64_t count) {
    event = {range_name(name), static_cast<int64_t>(r.time_ns) - ns, ns, bytes, count};
    return true;
  };
  switch (r.type) {
    case RecordType::kStepEnd: {
      const auto step = r.as<StepRecord>();
      return with(step.rows == 1 ? RangeName::kToken : RangeName::kPrompt, step.duration_ns, 0,
                  step.rows);
    }
    case RecordType::kRange: {
      const auto range = r.as<RangeRecord>();
      return with(static_cast<RangeName>(r.detail), range.duration_ns, range.bytes, range.count);
    }
    default:
      return false;
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
    std::vector<std::pair<Event, const Record*>> events;
    for (const Record& record : lanes_[lane]) {
      Event event;
      if (event_of(record, event)) events.emplace_back(event, &record);
    }
    std::stable_sort(events.begin(), events.end(), [](const auto& a, const auto& b) {
      return a.first.begin_ns != b.first.begin_ns ? a.first.begin_ns < b.first.begin_ns
                                                  : a.first.duration_ns > b.first.duration_ns;
    });
    for (const auto& [event, record] : events) {
      out += fmt::format(
          "{}{{\"name\":\"{}\",\"ph\":\"X\",\"ts\":{}.{:03},\"dur\":{}.{:03},\"pid\":{},"
          "\"tid\":{},\"args\":{{\"step\":{},\"layer\":{},\"bytes\":{},\"count\":{}}}}}",
          separator, event.name, event.begin_ns / 1000, event.begin_ns % 1000,
          event.duration_ns / 1000, event.duration_ns % 1000, reader_.header().pid, lane,
          record->step, record->layer == kNoLayer ? -1 : record->layer, event.bytes, event.count);
      separator = ",\n";
    }
  }
  return out + "\n]}\n";
}

}  // namespace hotset
