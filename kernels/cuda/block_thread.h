// A thread of the emulated card's running block: what it waits for, and what it asks of its warp.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/cuda/executor.h"

namespace hotset::emulated {

inline constexpr int kWarp = 32;

enum class Wait { kNothing, kBarrier, kCollective, kSleep };

// A thread of the running block, from its start to its end.
struct Thread {
  int rank = 0;
  dim3 index;
  Wait wait = Wait::kNothing;
  Site site = {};
  // In a collective:
  Collective kind = Collective::kSync;
  uint32_t mask = 0;
  uint64_t value = 0;  // deposited, later what it gets
  int operand = 0, width = kWarp;
};

// A collective that some lanes of its mask have reached.
struct Open {
  uint32_t mask, arrived;
  Collective kind;
  Site site;  // of the lane that came first
};

const char* name_of(Collective kind);
// The lane whose value `lane` gets of a shuffle; -1: its own.
int source_lane(const Thread& t, int lane);
// Where threads wait, places that several share once.
std::string waiting(const std::vector<Thread>& threads);

}  // namespace hotset::emulated
