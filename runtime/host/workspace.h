// Memory of the host for activations, taken while a model is set up. RAII owner of what it gave.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels/memory.h"
#include "runtime/device.h"

namespace hotset {

class Workspace {
 public:
  std::byte* take(int64_t bytes) {
    bytes_ += bytes;
    return memory_.emplace_back(bytes, "activations").data();
  }
  Rows rows(int64_t rows, int64_t width) {
    return {reinterpret_cast<float*>(take(rows * width * 4)), rows, width};
  }
  Activations activations(int64_t rows, int64_t width);
  Routing routing(int64_t rows, int64_t k) {
    return {reinterpret_cast<int32_t*>(take(rows * k * 4)),
            reinterpret_cast<float*>(take(rows * k * 4)), rows, k};
  }
  int64_t bytes() const { return bytes_; }

 private:
  std::vector<Memory> memory_;
  int64_t bytes_ = 0;
};

}  // namespace hotset
