// Tests that take minutes are skipped unless their variable is 1; ctest knows them by a label too
// (tests/CMakeLists.txt):
//   *LongTest        HOTSET_LONG=1 ctest --test-dir build/release -L long      (tools/check --long)
//   *ExhaustiveTest  HOTSET_EXHAUSTIVE=1 ctest --test-dir build/release -L exhaustive
#pragma once

#include <gtest/gtest.h>

#include <cstdlib>
#include <string_view>

namespace hotset::test {

inline bool is_set(const char* variable) {
  const char* value = std::getenv(variable);
  return value != nullptr && std::string_view(value) == "1";
}

}  // namespace hotset::test

// First statement of a test or of its SetUp.
#define HOTSET_ON_DEMAND(variable) \
  if (!::hotset::test::is_set(variable)) GTEST_SKIP() << "takes minutes: set " variable "=1"

// To ThreadSanitizer each thread of an emulated card is a thread: minutes a test. The threads of
// the host that such tests have are in smaller ones, too.
#ifdef HOTSET_SANITIZES_thread
#define HOTSET_NOT_UNDER_TSAN() GTEST_SKIP() << "minutes under TSan, with nothing new for it"
#else
#define HOTSET_NOT_UNDER_TSAN() static_cast<void>(0)
#endif
