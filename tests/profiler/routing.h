// Routing for the simulator's tests: events written down, or drawn.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>
#include <zlib.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <random>
#include <string>
#include <vector>

#include "profiler/routing_trace.h"

namespace hotset::test {

// A trace of one-row decode events: picks[token][layer] -> ids.
inline RoutingTrace trace_of(const std::vector<std::vector<std::vector<uint16_t>>>& picks,
                             int32_t experts) {
  RoutingTrace trace;
  const auto layers = static_cast<int32_t>(picks[0].size());
  trace.header = {0,       layers,
                  experts, static_cast<int32_t>(picks[0][0].size()),
                  false,   std::vector<int64_t>(layers, 100),
                  ""};
  for (size_t token = 0; token < picks.size(); ++token) {
    for (int32_t layer = 0; layer < layers; ++layer) {
      trace.events.push_back(
          {static_cast<uint32_t>(token), layer, 1, TracePhase::kDecode, trace.ids.size()});
      const std::vector<uint16_t>& ids = picks[token][layer];
      trace.ids.insert(trace.ids.end(), ids.begin(), ids.end());
    }
  }
  trace.weights.resize(trace.ids.size());
  return trace;
}

inline RoutingTrace random_trace(unsigned seed, int tokens, int layers, int experts, int top_k) {
  std::mt19937 random(seed);
  std::vector<std::vector<std::vector<uint16_t>>> picks(tokens);
  for (auto& token : picks) {
    for (int layer = 0; layer < layers; ++layer) {
      std::vector<uint16_t> ids;
      while (std::ssize(ids) < top_k) {
        const auto id = static_cast<uint16_t>(random() % experts * (random() % experts) / experts);
        if (std::find(ids.begin(), ids.end(), id) == ids.end()) ids.push_back(id);
      }
      token.push_back(ids);
    }
  }
  return trace_of(picks, experts);
}

// What gen_routing.py --profile P --tokens 4096 --layers 4 --seed 7 wrote.
inline RoutingTrace stored_routing(const std::string& profile) {
  const std::string from = HOTSET_SOURCE_DIR "/tests/data/routing/" + profile + ".i16.gz";
  const std::string to =
      testing::TempDir() + "/" + profile + "." + std::to_string(getpid()) + ".i16";
  std::ofstream out(to, std::ios::binary);
  gzFile in = gzopen(from.c_str(), "rb");
  std::vector<char> buffer(1 << 16);
  for (int n; (n = gzread(in, buffer.data(), 1 << 16)) > 0;) out.write(buffer.data(), n);
  gzclose(in);
  out.close();
  RoutingTrace trace = load_int16_routing(to, 4, 512, 10);
  std::filesystem::remove(to);
  return trace;
}

}  // namespace hotset::test
