#include "kernels/cuda/shared_memory.h"

#include <cstring>

#include "kernels/check.h"

#ifdef HOTSET_SANITIZES_address
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(at, bytes) ((void)(at), (void)(bytes))
#define ASAN_UNPOISON_MEMORY_REGION(at, bytes) ((void)(at), (void)(bytes))
#endif

namespace hotset::emulated {
namespace {

constexpr size_t kBytes = 227 * 1024;  // what a block of today's largest cards can have
constexpr size_t kGap = 64;            // between arrays, for AddressSanitizer

}  // namespace

SharedMemory::SharedMemory() : memory_(std::make_unique<std::byte[]>(kBytes)) {}

SharedMemory::~SharedMemory() {
  ASAN_UNPOISON_MEMORY_REGION(memory_.get(), kBytes);
}

void SharedMemory::begin_block(size_t dynamic_bytes) {
  HOTSET_CHECK(dynamic_bytes <= kBytes, "more shared memory than a block can have");
  ASAN_UNPOISON_MEMORY_REGION(memory_.get(), kBytes);
  std::memset(memory_.get(), 0xff, dynamic_bytes);
  ASAN_POISON_MEMORY_REGION(memory_.get() + dynamic_bytes, kBytes - dynamic_bytes);
  used_ = dynamic_bytes;
  named_.clear();
}

void* SharedMemory::named(const void* key, size_t bytes) {
  for (const auto& [known, at] : named_) {
    if (known == key) return at;
  }
  const size_t begin = (used_ + kGap - 1) / kGap * kGap + kGap;
  HOTSET_CHECK(begin + bytes <= kBytes, "more shared memory than a block can have");
  used_ = begin + bytes;
  void* const at = memory_.get() + begin;
  ASAN_UNPOISON_MEMORY_REGION(at, bytes);
  std::memset(at, 0xff, bytes);
  named_.emplace_back(key, at);
  return at;
}

}  // namespace hotset::emulated
