#include "kernels/memory.h"

#include <fmt/format.h>
#include <linux/mman.h>
#include <numa.h>
#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "kernels/check.h"

namespace hotset {

namespace {

constexpr int64_t kHugePage = 2 << 20;
constexpr int kOrdinary = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;

// All threads read all experts, so pages go round the nodes that the process may use: no thread is
// far from everything, and every node's memory channels are busy.
void interleave(std::byte* data, int64_t bytes) {
  if (numa_available() < 0 || numa_bitmask_weight(numa_all_nodes_ptr) < 2) return;
  numa_interleave_memory(data, static_cast<size_t>(bytes), numa_all_nodes_ptr);
}

void ask_for_huge_pages(std::byte* data, int64_t bytes) {
  madvise(data, static_cast<size_t>(bytes), MADV_HUGEPAGE);
  interleave(data, bytes);
}

// Pages that the machine's owner set aside (vm.nr_hugepages), for all of these bytes or for none.
// They are taken at once: a container may be allowed fewer than there are, and who finds that out
// by writing is killed. And they are taken elsewhere, since what fails in place leaves a hole.
// Needs Linux 5.16.
bool place_pages_set_aside(std::byte* at, int64_t bytes) {
  const auto size = static_cast<size_t>(bytes);
  void* pages = mmap(nullptr, size, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | MAP_HUGE_2MB, -1, 0);
  if (pages == MAP_FAILED) return false;
  interleave(static_cast<std::byte*>(pages), bytes);
  if (madvise(pages, size, MADV_POPULATE_WRITE) == 0 &&
      mremap(pages, size, size, MREMAP_MAYMOVE | MREMAP_FIXED, at) != MAP_FAILED) {
    return true;
  }
  munmap(pages, size);
  return false;
}

[[noreturn]] void refuse(const char* what, int64_t bytes) {
  throw Error(fmt::format("no memory for {}: {} bytes asked for, the system says: {}", what, bytes,
                          std::strerror(errno)));
}

}  // namespace

void Memory::map(int64_t bytes, const char* what) {
  // Without access: a system that counts what it promises counts none of it. Reserved one huge page
  // longer, so that the start can be aligned to one; the ends are given back.
  const int64_t aligned = (bytes + kHugePage - 1) / kHugePage * kHugePage;
  void* mapped =
      mmap(nullptr, static_cast<size_t>(aligned + kHugePage), PROT_NONE, kOrdinary, -1, 0);
  if (mapped == MAP_FAILED) refuse(what, bytes);
  const auto start = reinterpret_cast<uintptr_t>(mapped);
  const uintptr_t data = (start + kHugePage - 1) / kHugePage * kHugePage;
  if (data > start) munmap(mapped, data - start);
  const uintptr_t tail = start + static_cast<uintptr_t>(kHugePage) - data;
  if (tail > 0) munmap(reinterpret_cast<void*>(data + static_cast<uintptr_t>(aligned)), tail);
  data_ = reinterpret_cast<std::byte*>(data);
  bytes_ = aligned;
}

Memory::Memory(int64_t bytes, const char* what, Pages pages) : Memory() {
  if (bytes == 0) return;
  map(bytes, what);
  if (pages == Pages::kHuge) {
    ask_for_huge_pages(data_, bytes_);
    commit(bytes, what);
    return;
  }
  madvise(data_, static_cast<size_t>(bytes_), MADV_NOHUGEPAGE);
  interleave(data_, bytes_);
  allow(bytes_, what);
}

Memory Memory::reserve(int64_t bytes, const char* what) {
  Memory memory;
  if (bytes == 0) return memory;
  memory.map(bytes, what);
  ask_for_huge_pages(memory.data_, memory.bytes_);
  return memory;
}

void Memory::commit(int64_t bytes, const char* what) {
  const int64_t end = std::min((bytes + kHugePage - 1) / kHugePage * kHugePage, bytes_);
  if (end < committed_) {
    // Mapped anew, whatever pages there are: on every kernel that gives all of them back.
    if (mmap(data_ + end, static_cast<size_t>(committed_ - end), PROT_NONE, kOrdinary | MAP_FIXED,
             -1, 0) == MAP_FAILED) {
      refuse(what, bytes);
    }
    ask_for_huge_pages(data_ + end, committed_ - end);
    committed_ = end;
  }
  if (end == committed_) return;
  if (place_pages_set_aside(data_ + committed_, end - committed_)) {
    committed_ = end;
  } else {
    allow(end, what);
  }
}

void Memory::allow(int64_t end, const char* what) {
  if (mprotect(data_ + committed_, static_cast<size_t>(end - committed_), PROT_READ | PROT_WRITE) !=
      0) {
    refuse(what, end);
  }
  committed_ = end;
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
