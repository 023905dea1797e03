// How much memory this process could still take: what the machine has left, and what the limits of
// its control groups leave. Page cache counts as free: the system gives it up for us.
#pragma once

#include <cstdint>
#include <string>

namespace hotset {

// `root` stands before /proc and /sys: tests lay out other machines there.
int64_t available_memory(const std::string& root = "");

}  // namespace hotset
