#include "profiler/token.h"

#include <fmt/format.h>

#include <algorithm>
#include <string_view>

namespace hotset {
namespace {

std::string ms(int64_t ns) {
  const double value = static_cast<double>(ns) / 1e6;
  return value < 10 ? fmt::format("{:.1f} ms", value) : fmt::format("{:.0f} ms", value);
}

// The layers that were waited in longest, in their order.
std::string layers_of(const Token& token) {
  constexpr size_t kMost = 5;
  std::vector<Token::Wait> waits = token.waits;
  std::sort(waits.begin(), waits.end(), [](const auto& a, const auto& b) { return a.ns > b.ns; });
  const size_t others = waits.size() - std::min(waits.size(), kMost);
  waits.resize(std::min(waits.size(), kMost));
  std::sort(waits.begin(), waits.end(),
            [](const auto& a, const auto& b) { return a.layer < b.layer; });
  std::string text = waits.size() == 1 ? " in layer " : " in layers ";
  for (size_t i = 0; i < waits.size(); ++i) {
    text += fmt::format("{}{}", i == 0 ? "" : ", ", waits[i].layer);
  }
  if (others > 0) text += fmt::format(" and {} more", others);
  return text;
}

}  // namespace

const char* cause_of(const Token& token) {
  const int64_t most =
      std::max({token.read_wait_ns, token.card_wait_ns, token.compute_ns, token.other_ns()});
  if (most == token.read_wait_ns) return "reads";
  if (most == token.card_wait_ns) return "card";
  return most == token.compute_ns ? "compute" : "other";
}

std::string explain(const Token& token) {
  const std::string_view cause = cause_of(token);
  std::string text = fmt::format("token {}: {}, ", token.position, ms(token.latency_ns()));
  if (cause == "reads") {
    text += fmt::format("{} waiting for {} read{}", ms(token.read_wait_ns), token.reads,
                        token.reads == 1 ? "" : "s");
    text += layers_of(token);
    if (token.after_topic_change) text += " after a topic change";
  } else if (cause == "card") {
    text += ms(token.card_wait_ns) + " waiting for the card";
  } else if (cause == "compute") {
    text += ms(token.compute_ns) + " computing";
  } else {
    text += ms(token.other_ns()) + " outside of the model's operations";
  }
  return text;
}

}  // namespace hotset
