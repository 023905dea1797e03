// NVTX ranges in the domain `hotset`, for Nsight Systems: a load and a branch a call unless a tool
// has injected itself. Empty where the build found no NVTX headers (CMake says so).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace hotset {

// One domain with its registered names. Thread-safe; a range is pushed and popped on one thread.
class NvtxDomain {
 public:
  explicit NvtxDomain(std::span<const char* const> names);
  ~NvtxDomain();
  NvtxDomain(const NvtxDomain&) = delete;

  // Category: layer + 1 (0: none). Payload: step << 32 | bytes in KiB, rounded up.
  void push(int name, int32_t layer, uint32_t step, int64_t bytes) const;
  void pop() const;

 private:
  [[maybe_unused]] void* domain_ = nullptr;  // in a build without the headers
  std::vector<void*> names_;
};

}  // namespace hotset
