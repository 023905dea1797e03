#include "profiler/routing_trace.h"

#include <fmt/format.h>

#include <fstream>
#include <utility>

#include "kernels/check.h"

namespace hotset {
namespace {

std::ifstream open_binary(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file || file.peek() == EOF) {
    throw Error(path + ": cannot be read or is empty, expected a routing trace");
  }
  return file;
}

}  // namespace

std::vector<uint16_t> decoded_picks(const RoutingTrace& trace) {
  const size_t whole = static_cast<size_t>(trace.header.layers) * trace.header.top_k;
  std::vector<uint16_t> picks;
  size_t token = 0;  // where the running one begins
  for (size_t i = 0; i < trace.events.size(); ++i) {
    const RoutingTrace::Event& event = trace.events[i];
    if (event.phase == TracePhase::kDecode) {
      const std::span<const uint16_t> row = trace.row(event, 0);
      picks.insert(picks.end(), row.begin(), row.end());
    }
    const bool is_last = i + 1 == trace.events.size() || trace.events[i + 1].step != event.step;
    if (!is_last) continue;
    if (picks.size() - token != whole) picks.resize(token);
    token = picks.size();
  }
  return picks;
}

RoutingTrace load_trace(std::istream& in, const std::string& name) {
  TraceReader reader(in, name);
  RoutingTrace trace;
  trace.header = reader.header();
  for (TraceEvent event; reader.next(event);) {
    trace.events.push_back({event.step, event.layer, event.rows, event.phase, trace.ids.size()});
    trace.ids.insert(trace.ids.end(), event.ids.begin(), event.ids.end());
    trace.weights.insert(trace.weights.end(), event.weights.begin(), event.weights.end());
  }
  trace.damage = reader.damage();
  if (trace.events.empty()) {
    throw Error(trace.damage.empty() ? name + ": holds no routing event" : trace.damage);
  }
  return trace;
}

RoutingTrace load_trace(const std::string& path) {
  std::ifstream file = open_binary(path);
  return load_trace(file, path);
}

RoutingTrace load_int16_routing(const std::string& path, int32_t layers, int32_t experts,
                                int32_t top_k) {
  RoutingTrace trace;
  trace.header = {0, layers, experts, top_k, false, std::vector<int64_t>(layers), ""};
  check_trace_shape(trace.header, path);
  std::ifstream file = open_binary(path);
  const size_t picks = static_cast<size_t>(layers) * top_k;
  std::vector<uint16_t> token(picks);
  std::vector<uint32_t> seen(experts, UINT32_MAX);
  uint32_t row = 0;
  for (uint32_t step = 0; file.peek() != EOF; ++step) {
    file.read(reinterpret_cast<char*>(token.data()), static_cast<std::streamsize>(2 * picks));
    if (file.gcount() != static_cast<std::streamsize>(2 * picks)) {
      throw Error(fmt::format("{}: ends within token {}: expected int16 [tokens][{}][{}]", path,
                              step, layers, top_k));
    }
    for (size_t i = 0; i < picks; ++i) {
      const auto layer = static_cast<int32_t>(i / top_k);
      if (i % top_k == 0) {
        trace.events.push_back({step, layer, 1, TracePhase::kDecode, trace.ids.size() + i});
        ++row;
      }
      if (token[i] >= experts || std::exchange(seen[token[i]], row) == row) {
        throw Error(fmt::format(
            "{}: found expert {} at token {}, layer {}, expected distinct ones from 0 to {}", path,
            token[i], step, layer, experts - 1));
      }
    }
    trace.ids.insert(trace.ids.end(), token.begin(), token.end());
  }
  trace.weights.resize(trace.ids.size());
  return trace;
}

}  // namespace hotset
