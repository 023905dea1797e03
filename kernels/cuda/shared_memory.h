// The shared memory of a block of the emulated card: NaN until somebody writes it, and closed to
// AddressSanitizer beyond what was asked for.
#pragma once

#include <cstddef>
#include <memory>
#include <utility>
#include <vector>

namespace hotset::emulated {

class SharedMemory {
 public:
  SharedMemory();
  ~SharedMemory();
  SharedMemory(const SharedMemory&) = delete;
  SharedMemory& operator=(const SharedMemory&) = delete;

  // Everything is forgotten; the launch asks for so many bytes.
  void begin_block(size_t dynamic_bytes);
  void* dynamic() const { return memory_.get(); }
  // An array of the kernel's own, the same for all who name it.
  void* named(const void* key, size_t bytes);

 private:
  std::unique_ptr<std::byte[]> memory_;
  size_t used_ = 0;
  std::vector<std::pair<const void*, void*>> named_;
};

}  // namespace hotset::emulated
