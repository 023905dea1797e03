#include "kernels/memory.h"

#include <fmt/format.h>
#include <numa.h>
#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "kernels/check.h"

namespace hotset {

namespace {

constexpr int64_t kHugePage = 2 << 20;

// All threads read all experts, so pages go round the nodes that the process may use: no thread is
// far from everything, and every node's memory channels are busy.
void interleave(std::byte* data, int64_t bytes) {
  if (numa_available() < 0 || numa_bitmask_weight(numa_all_nodes_ptr) < 2) return;
  numa_interleave_memory(data, static_cast<size_t>(bytes), numa_all_nodes_ptr);
}

[[noreturn]] void refuse(const char* what, int64_t bytes) {
  throw Error(fmt::format("no memory for {}: {} bytes asked for, the system says: {}", what, bytes,
                          std::strerror(errno)));
}

}  // namespace

void Memory::map(int64_t bytes, const char* what, int protection) {
  // Reserved one huge page longer, so that the start can be aligned to one; the ends are given
  // back.
  const int64_t aligned = (bytes + kHugePage - 1) / kHugePage * kHugePage;
  void* mapped = mmap(nullptr, static_cast<size_t>(aligned + kHugePage), protection,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapped == MAP_FAILED) refuse(what, bytes);
  const auto start = reinterpret_cast<uintptr_t>(mapped);
  const uintptr_t data = (start + kHugePage - 1) / kHugePage * kHugePage;
  if (data > start) munmap(mapped, data - start);
  const uintptr_t tail = start + static_cast<uintptr_t>(kHugePage) - data;
  if (tail > 0) munmap(reinterpret_cast<void*>(data + static_cast<uintptr_t>(aligned)), tail);
  data_ = reinterpret_cast<std::byte*>(data);
  bytes_ = aligned;
}

Memory::Memory(int64_t bytes, const char* what, Pages pages) {
  if (bytes == 0) return;
  map(bytes, what, PROT_READ | PROT_WRITE);
  madvise(data_, static_cast<size_t>(bytes_),
          pages == Pages::kHuge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
  interleave(data_, bytes_);
}

// Without access: a system that counts what it promises counts none of it.
Memory Memory::reserve(int64_t bytes, const char* what) {
  Memory memory;
  if (bytes == 0) return memory;
  memory.map(bytes, what, PROT_NONE);
  madvise(memory.data_, static_cast<size_t>(memory.bytes_), MADV_HUGEPAGE);
  interleave(memory.data_, memory.bytes_);
  return memory;
}

void Memory::commit(int64_t bytes, const char* what) {
  const int64_t end = std::min((bytes + kHugePage - 1) / kHugePage * kHugePage, bytes_);
  if (end > 0 && mprotect(data_, static_cast<size_t>(end), PROT_READ | PROT_WRITE) != 0) {
    refuse(what, bytes);
  }
  if (end == bytes_) return;
  madvise(data_ + end, static_cast<size_t>(bytes_ - end), MADV_DONTNEED);
  mprotect(data_ + end, static_cast<size_t>(bytes_ - end), PROT_NONE);
}

void Memory::touch() const {
  constexpr int64_t kSmallPage = 4096;
  for (int64_t at = 0; at < bytes_; at += kSmallPage)
    const_cast<volatile std::byte&>(data_[at]) = std::byte{};
}

Memory::~Memory() {
  if (data_ != nullptr) munmap(data_, static_cast<size_t>(bytes_));
}

}  // namespace hotset
