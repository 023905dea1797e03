// Anonymous memory for weights, caches and workspaces: page-aligned, zero, on huge pages where the
// kernel grants them (a model is ready in half the time: docs/performance.md), spread over the
// NUMA nodes where there are several, committed as it is first touched. Where enough huge pages are
// set aside (hugetlbfs), those are taken instead, at once. RAII owner; move-only.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

namespace hotset {

enum class Pages { kHuge, kSmall };

class Memory {
 public:
  Memory() = default;
  // Reserves `bytes` (0 is allowed). `what` names the use in the Error if the system refuses.
  // Small pages are for comparison only.
  Memory(int64_t bytes, const char* what, Pages pages = Pages::kHuge);
  // Addresses only, in which commit() makes memory of the first so many bytes.
  static Memory reserve(int64_t bytes, const char* what);
  // From now on the first `bytes` of a reservation are memory: new ones are zero, those beyond go
  // back to the system.
  void commit(int64_t bytes, const char* what);
  // Has all of it committed now: later, with the machine full, there may be no huge pages left.
  void touch() const;
  ~Memory();
  Memory(Memory&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)),
        bytes_(std::exchange(other.bytes_, 0)),
        committed_(std::exchange(other.committed_, 0)) {}
  Memory& operator=(Memory&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    std::swap(committed_, other.committed_);
    return *this;
  }

  std::byte* data() const { return data_; }
  int64_t bytes() const { return bytes_; }
  template <class T>
  T* as() const {
    return reinterpret_cast<T*>(data_);
  }

 private:
  void map(int64_t bytes, const char* what);
  void allow(int64_t end, const char* what);

  std::byte* data_ = nullptr;
  int64_t bytes_ = 0;
  int64_t committed_ = 0;  // from the start; the rest are addresses only
};

}  // namespace hotset
