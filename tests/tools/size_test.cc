#include "tools/size.h"

#include <gtest/gtest.h>

namespace hotset {
namespace {

int64_t bytes(const std::string& text, int64_t whole = 0) {
  const auto size = Size::parse(text);
  return size ? size->bytes_of(whole) : -1;
}

TEST(SizeTest, UnitsArePowersOf1000OrOf1024) {
  EXPECT_EQ(bytes("1234"), 1234);
  EXPECT_EQ(bytes("0"), 0);
  EXPECT_EQ(bytes("16GB"), 16'000'000'000);
  EXPECT_EQ(bytes("16GiB"), int64_t{16} << 30);
  EXPECT_EQ(bytes("1.5 kib"), 1536);
  EXPECT_EQ(bytes("2tb"), 2'000'000'000'000);
  EXPECT_EQ(bytes("7B"), 7);
}

TEST(SizeTest, PercentagesAreOfTheWholeAndNeverMore) {
  EXPECT_TRUE(Size::parse("50%")->is_percent());
  EXPECT_FALSE(Size::parse("50")->is_percent());
  EXPECT_EQ(bytes("50%", 1000), 500);
  EXPECT_EQ(bytes("12.5 %", 1000), 125);
  EXPECT_EQ(bytes("0%", 1000), 0);
  EXPECT_EQ(bytes("100%", 1000), 1000);
  EXPECT_EQ(bytes("250%", 1000), 1000);
}

TEST(SizeTest, WhatIsNoSizeIsRefused) {
  for (const char* text : {"", "GiB", "-1", "-5%", "1e3", "16 giga", "1GBx", "nan", "inf", "0x10",
                           "99999999999999TB"}) {
    EXPECT_FALSE(Size::parse(text)) << text;
  }
}

TEST(SizeTest, HumanBytesHaveThreeDigits) {
  EXPECT_EQ(human_bytes(0), "0 B");
  EXPECT_EQ(human_bytes(999), "999 B");
  EXPECT_EQ(human_bytes(1770000), "1.77 MB");
  EXPECT_EQ(human_bytes(43'500'000'000), "43.5 GB");
  EXPECT_EQ(human_bytes(849'000'000), "849 MB");
  EXPECT_EQ(human_bytes(999'700), "1.00 MB");
}

}  // namespace
}  // namespace hotset
