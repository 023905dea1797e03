// How much memory this process may use: what the machine has left, or what the nearest limiting
// control group (version 1 or 2; a container's limit is one) leaves. Reads /proc and the mounted
// control groups; what cannot be read or understood limits nothing.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace hotset {

struct MemoryRoom {
  int64_t bytes = 0;        // that this process may use in all, what it holds already included
  int64_t limit_bytes = 0;  // of `whose`: what others hold is part of it
  std::string whose;        // "this machine", "control group /docker/ab"
};

// The least of all that limit. `root` is put before every path: tests have a tree of their own.
// Nothing where the system says nothing.
std::optional<MemoryRoom> memory_room(const std::string& root = "");

// The share of the last ten seconds and of the last minute in which every task waited for memory,
// in percent (the kernel's pressure stall information: of the own control group where it has that,
// else of the whole machine). Nothing where the kernel does not tell.
struct MemoryPressure {
  double avg10 = 0, avg60 = 0;
};
std::optional<MemoryPressure> memory_pressure(const std::string& root = "");

}  // namespace hotset
