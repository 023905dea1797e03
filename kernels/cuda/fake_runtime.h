// A card on the host, for builds and machines without one, and for tests: heap memory that starts
// as 0xFF, kernels that the executor runs. In order: an operation is done when it is put on a
// stream. Lazy: it is done only when something forces it (waiting for a stream or an event; asking
// an event, which by chance of the seed says "not yet"), so that a wait that is missing fails on
// every run and not sometimes. Otherwise both keep CUDA's rules (card_runtime.h), and its mistakes
// are Errors: a synchronising call during a capture, memory released twice.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

#include "kernels/cuda/card_runtime.h"

namespace hotset {

enum class FakeOrder { kInOrder, kLazy };

struct FakeOptions {
  FakeOrder order = FakeOrder::kInOrder;
  uint64_t seed = 1;
  int64_t memory_bytes = int64_t{64} << 30;  // what the card says it has
};

std::unique_ptr<CardRuntime> make_fake_runtime(const FakeOptions& options = {});

// A kernel's launch: `work` runs the grid, with arguments that were copied at the call.
void fake_enqueue(CardStream stream, std::function<void()> work);

}  // namespace hotset
