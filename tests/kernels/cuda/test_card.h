// The card that a test's kernels run on: the emulated one, with its threads in three orders, or a
// real one, where there is one.
#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <string>
#include <vector>

#include "kernels/cuda/card_kernels.h"
#include "kernels/cuda/cuda_runtime.h"
#include "tests/kernels/cuda/thread_orders.h"

namespace hotset {

// The memory of a few launches. On the emulated card the test's own; a real one gets copies, and
// what it has written comes back at the end.
class OnCard {
 public:
  explicit OnCard(CardRuntime* runtime) : runtime_(runtime) {
    if (runtime_ != nullptr) stream_ = runtime_->open_stream(StreamPriority::kNormal);
  }
  ~OnCard() {
    if (runtime_ != nullptr) runtime_->close_stream(stream_);
  }
  OnCard(const OnCard&) = delete;
  OnCard& operator=(const OnCard&) = delete;

  CardStream stream() const { return stream_; }
  const CardKernels& kernels() const {
    return runtime_ == nullptr ? emulated_kernels() : *cuda_kernels();
  }

  template <class T>
  T* put(T* host, int64_t count) {
    if (runtime_ == nullptr || host == nullptr) return host;
    const auto bytes = static_cast<int64_t>(count * sizeof(T));
    CardMemory& memory =
        copies_.emplace_back(*runtime_, CardMemory::Place::kCard, bytes, "a test's data");
    runtime_->copy(stream_, memory.data(), host, bytes);
    if constexpr (!std::is_const_v<T>) back_.push_back({host, memory.data(), bytes});
    return reinterpret_cast<T*>(memory.data());
  }
  template <class T>
  T* put(std::vector<T>& host) {
    return put(host.data(), static_cast<int64_t>(host.size()));
  }
  template <class T>
  const T* put(const std::vector<T>& host) {
    return put(host.data(), static_cast<int64_t>(host.size()));
  }
  QuantisedRows put(const QuantisedRows& q, int64_t rows) {
    return {put(q.q, rows * q.units * 32), put(q.scale, rows * q.units),
            put(q.half_sum, rows * q.units * 2), q.units};
  }

  // Waits, and brings back what was written.
  void finish() {
    if (runtime_ == nullptr) return;
    for (const Back& b : back_) runtime_->copy(stream_, b.host, b.card, b.bytes);
    runtime_->synchronise(stream_);
  }

 private:
  struct Back {
    void* host;
    std::byte* card;
    int64_t bytes;
  };
  CardRuntime* runtime_;
  CardStream stream_;
  std::vector<CardMemory> copies_;
  std::vector<Back> back_;
};

// Tests of both cards, by the name of their kernels.
class CardTest : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    if (GetParam() == std::string("emulated")) return;
    card_ = open_cuda_card();
    if (card_.runtime == nullptr) GTEST_SKIP() << "no card: " << card_.reason;
  }

  // Calls run(OnCard&) in each thread order, or once.
  template <class Run>
  void on_card(const Run& run) {
    const auto once = [&] {
      OnCard card(card_.runtime.get());
      run(card);
    };
    if (card_.runtime != nullptr) {
      once();
    } else {
      in_thread_orders(once);
    }
  }

 private:
  CudaCard card_;
};
inline const auto kCards = testing::Values("emulated", "cuda");
inline std::string card_name(const testing::TestParamInfo<const char*>& info) {
  return info.param;
}

}  // namespace hotset
