// A routing trace in memory, for those who walk through it more than once.
#pragma once

#include <cstdint>
#include <istream>
#include <span>
#include <string>
#include <vector>

#include "cache/trace.h"

namespace hotset {

struct RoutingTrace {
  struct Event {
    uint32_t step = 0;
    int32_t layer = 0, rows = 0;
    TracePhase phase = TracePhase::kDecode;
    size_t first = 0;  // of its ids
  };

  TraceHeader header;
  std::vector<Event> events;
  std::vector<uint16_t> ids;     // [rows][top_k] of each event
  std::vector<uint8_t> weights;  // beside them
  std::string damage;            // what is wrong with the file after the last event; mostly empty

  std::span<const uint16_t> row(const Event& event, int32_t row) const {
    return std::span(ids).subspan(event.first + static_cast<size_t>(row) * header.top_k,
                                  header.top_k);
  }
};

// Picks of the decoded tokens that have all layers: [tokens][layers][top_k].
std::vector<uint16_t> decoded_picks(const RoutingTrace& trace);

// Throws Error, as TraceReader does, and if there is no event.
RoutingTrace load_trace(std::istream& in, const std::string& name);
RoutingTrace load_trace(const std::string& path);

// int16 [tokens][layers][top_k], as tools/bench/gen_routing.py writes it: decode steps without
// weights. Throws Error.
RoutingTrace load_int16_routing(const std::string& path, int32_t layers, int32_t experts,
                                int32_t top_k);

}  // namespace hotset
