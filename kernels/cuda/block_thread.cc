#include "kernels/cuda/block_thread.h"

#include <fmt/format.h>

#include <map>

namespace hotset::emulated {

const char* name_of(Collective kind) {
  switch (kind) {
    case Collective::kSync:
      return "__syncwarp";
    case Collective::kShuffle:
      return "__shfl_sync";
    case Collective::kShuffleUp:
      return "__shfl_up_sync";
    case Collective::kShuffleDown:
      return "__shfl_down_sync";
    case Collective::kShuffleXor:
      return "__shfl_xor_sync";
    case Collective::kBallot:
      return "a vote";
  }
  return "";
}

int source_lane(const Thread& t, int lane) {
  const int first = lane / t.width * t.width, last = first + t.width - 1;
  int source = lane;
  switch (t.kind) {
    case Collective::kShuffle:
      source = first + (t.operand & (t.width - 1));
      break;
    case Collective::kShuffleUp:
      source = lane - t.operand;
      break;
    case Collective::kShuffleDown:
      source = lane + t.operand;
      break;
    case Collective::kShuffleXor:
      source = lane ^ t.operand;
      return source > last ? -1 : source;  // an earlier segment may be read
    default:
      break;
  }
  return source < first || source > last ? -1 : source;
}

std::string waiting(const std::vector<Thread>& threads) {
  std::map<std::string, int> places;
  for (const Thread& t : threads) {
    if (t.wait == Wait::kNothing) continue;
    const std::string what = t.wait == Wait::kBarrier ? "a barrier"
                             : t.wait == Wait::kSleep
                                 ? "__nanosleep"
                                 : fmt::format("{} of mask {:#010x}", name_of(t.kind), t.mask);
    ++places[fmt::format("in {} at {}:{}", what, t.site.file, t.site.line)];
  }
  std::string text;
  for (const auto& [where, count] : places) {
    text += fmt::format("{}{} threads {}", text.empty() ? "" : "; ", count, where);
  }
  return text;
}

}  // namespace hotset::emulated
