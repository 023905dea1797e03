// Whatever goes wrong with a request, its answer says so and the next one is answered.
#include "tools/live_settings.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <new>

#include "tests/support/engine.h"

namespace hotset::test {
namespace {

using testing::HasSubstr;

TEST(LiveSettingsTest, MemoryThatRunsOutRefusesARequestAndNoOther) {
  const auto engine = open_engine(small_model(), small_options());
  LiveSettings settings(*engine, Config(), []() -> Config { throw std::bad_alloc(); });
  EXPECT_THAT(settings.answer("{\"command\": \"reload\"}"), HasSubstr("\"ok\":false"));
  EXPECT_THAT(settings.answer("{\"command\": \"stats\"}"), HasSubstr("\"ok\":true"));
}

}  // namespace
}  // namespace hotset::test
