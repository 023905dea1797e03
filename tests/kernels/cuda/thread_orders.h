// Runs a test's kernels with the threads of the emulated card in different orders.
#pragma once

#include <gtest/gtest.h>

#include "kernels/cuda/executor.h"

namespace hotset {

template <class Run>
void in_thread_orders(const Run& run) {
  using emulated::ThreadOrder;
  for (const ThreadOrder order :
       {ThreadOrder::kForward, ThreadOrder::kReverse, ThreadOrder::kRandom}) {
    SCOPED_TRACE(order == ThreadOrder::kForward   ? "threads forward"
                 : order == ThreadOrder::kReverse ? "threads in reverse"
                                                  : "threads in random order");
    const emulated::ExecutorScope scope({.order = order, .seed = 7});
    run();
    if (testing::Test::HasFatalFailure()) return;
  }
}

}  // namespace hotset
