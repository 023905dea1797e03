// Experts whose bytes say who they are, from a reader whose faults and pace a test sets. Two size
// classes: 256 bytes in even layers, 512 in odd ones.
#pragma once

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "cache/expert_cache.h"
#include "kernels/check.h"

namespace hotset::test {

class FakeSource : public ExpertSource {
 public:
  FakeSource(int32_t layers, int32_t experts, int32_t parts = 2, bool lands_packed = false)
      : reads(layers * experts),
        loads(layers * experts),
        layers_(layers),
        experts_(experts),
        parts_(parts),
        lands_packed_(lands_packed) {}

  int32_t layer_count() const override { return layers_; }
  int32_t experts_per_layer() const override { return experts_; }
  int64_t expert_bytes(int32_t layer) const override { return layer % 2 == 0 ? 256 : 512; }
  int32_t parts() const override { return parts_; }
  int64_t landing_bytes() const override { return 512; }
  bool lands_packed() const override { return lands_packed_; }

  int64_t load(ExpertId id, std::span<std::byte> slot) override {
    ++loads[id.layer * experts_ + id.expert];
    wait_and_fail(id);
    write_name(id, slot.data(), std::ssize(slot));
    return 10;
  }
  int64_t read(ExpertId id, int32_t part, std::byte* landing) override {
    if (part == 0) ++reads[id.layer * experts_ + id.expert];
    wait_and_fail(id);
    if (lands_packed_) {
      write_name(id, landing, expert_bytes(id.layer));
    } else {
      const int32_t name = id.layer * 1000 + id.expert;
      std::memcpy(landing + 4 * part, &name, 4);
    }
    return 10;
  }
  // As many tasks as parts: each packs its share of the slot, from what its part has brought.
  int32_t pack_tasks() const override { return parts_; }
  void pack(ExpertId id, int32_t part, const std::byte* landing,
            std::span<std::byte> slot) override {
    if (id == bad_bytes)
      throw Error("model.bin: expert " + std::to_string(id.expert) + " at offset 7: bad bytes");
    if (lands_packed_) {
      EXPECT_NE(landing, slot.data()) << "what landed in its slot is there";
      if (part == 0) std::memcpy(slot.data(), landing, static_cast<size_t>(expert_bytes(id.layer)));
      return;
    }
    const int64_t share = std::ssize(slot) / parts_ / 4 * 4;
    const int64_t begin = part * share;
    const int64_t end = part + 1 == parts_ ? std::ssize(slot) : begin + share;
    for (int64_t at = begin; at < end; at += 4)
      std::memcpy(slot.data() + at, landing + 4 * part, 4);
  }

  // Reads of this expert wait until it is let go, or another one is held.
  void hold(ExpertId id) {
    {
      const std::lock_guard lock(mutex_);
      held_ = id;
      is_held_ = false;
    }
    changed_.notify_all();
  }
  void wait_until_held() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return is_held_; });
  }
  void let_go() {
    {
      const std::lock_guard lock(mutex_);
      held_ = {-1, -1};
    }
    changed_.notify_all();
  }
  void fail(ExpertId id) {
    const std::lock_guard lock(mutex_);
    failing_ = id;
  }
  int reads_in_all() const {
    int sum = 0;
    for (const auto& n : reads) sum += n;
    return sum;
  }

  ExpertId bad_bytes{-1, -1};
  std::atomic<int> read_us = 0;
  std::vector<std::atomic<int>> reads, loads;  // of each expert

 private:
  void wait_and_fail(ExpertId id) {
    if (read_us > 0) std::this_thread::sleep_for(std::chrono::microseconds(read_us));
    std::unique_lock lock(mutex_);
    if (id == held_) {
      is_held_ = true;
      changed_.notify_all();
      changed_.wait(lock, [&] { return !(held_ == id); });
    }
    if (id == failing_) {
      throw Error("model.bin: reading at offset 4096 failed (expert " + std::to_string(id.expert) +
                  " of layer " + std::to_string(id.layer) + ")");
    }
  }
  static void write_name(ExpertId id, std::byte* to, int64_t bytes) {
    const int32_t name = id.layer * 1000 + id.expert;
    for (int64_t at = 0; at < bytes; at += 4) std::memcpy(to + at, &name, 4);
  }

  const int32_t layers_, experts_, parts_;
  const bool lands_packed_;
  std::mutex mutex_;
  std::condition_variable changed_;
  ExpertId held_{-1, -1}, failing_{-1, -1};
  bool is_held_ = false;
};

// Every byte of the leased expert is its own.
inline void expect_bytes(int32_t layer, const Lease& lease, int64_t bytes) {
  const int32_t expected = layer * 1000 + lease.expert;
  for (int64_t at = 0; at < bytes; at += 4) {
    int32_t name;
    std::memcpy(&name, lease.blob + at, 4);
    ASSERT_EQ(name, expected);
  }
}

// Distinct picks, heaviest first.
inline std::vector<Pick> picks(std::initializer_list<int32_t> experts) {
  std::vector<Pick> p;
  for (const int32_t e : experts) p.push_back({e, static_cast<int32_t>(p.size())});
  return p;
}

inline PolicyFactory policy_of(PolicyKind kind, int32_t top_k = 4) {
  return [kind, top_k](PolicyShape shape) {
    shape.top_k = top_k;
    return make_policy({.kind = kind}, std::move(shape));
  };
}

}  // namespace hotset::test
