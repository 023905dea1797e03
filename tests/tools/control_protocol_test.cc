#include "tools/control_protocol.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace hotset {
namespace {

using testing::HasSubstr;

std::string refusal(const std::string& line) {
  try {
    parse_request(line);
    return "";
  } catch (const ConfigError& error) {
    return error.what();
  }
}

TEST(ControlProtocolTest, ARequestSurvivesItsLine) {
  for (const ControlRequest& request : {ControlRequest{ControlCommand::kStats, {}},
                                        ControlRequest{ControlCommand::kSet, {"ram=8GiB", "a=\n"}},
                                        ControlRequest{ControlCommand::kReload, {}}}) {
    const std::string line = request.line();
    EXPECT_EQ(line.find('\n'), line.size() - 1);
    const ControlRequest parsed = parse_request(line.substr(0, line.size() - 1));
    EXPECT_EQ(parsed.command, request.command);
    EXPECT_EQ(parsed.settings, request.settings);
  }
}

TEST(ControlProtocolTest, WhatIsNoRequestIsRefusedWithWhatWasFound) {
  for (const char* line : {"", "{", "[]", "7", "{}", "{\"command\": 7}", "\xff\xfe", "null"}) {
    EXPECT_THAT(refusal(line), HasSubstr("{\"command\": \"stats\"}")) << line;
  }
  EXPECT_THAT(refusal("{\"command\": \"stop\"}"),
              HasSubstr("\"stop\", expected one of stats, set"));
  EXPECT_THAT(refusal("{\"command\": \"set\"}"), HasSubstr("key=value"));
  EXPECT_THAT(refusal("{\"command\": \"set\", \"settings\": []}"), HasSubstr("key=value"));
  EXPECT_THAT(refusal("{\"command\": \"set\", \"settings\": [{\"ram\": 1}]}"), HasSubstr("ram"));
  EXPECT_EQ(refusal("{\"command\": \"stats\", \"more\": 1}"), "");
  EXPECT_NE(refusal(std::string(4000, '[')), "");
}

TEST(ControlProtocolTest, ARefusalIsOneLineWhateverTheErrorHolds) {
  const std::string line = refusal_line("a\n\"b\" \xff", true);
  EXPECT_EQ(line.find('\n'), line.size() - 1);
  const auto parsed = nlohmann::json::parse(line);
  EXPECT_EQ(parsed["ok"], false);
  EXPECT_EQ(parsed["is_usage"], true);
}

TEST(ControlProtocolTest, LinesComeOutOfPiecesAndNoneIsLongerThanTheMost) {
  LineBuffer lines;
  EXPECT_TRUE(lines.push("on"));
  EXPECT_EQ(lines.next(), std::nullopt);
  EXPECT_TRUE(lines.push("e\ntwo\n\nth"));
  EXPECT_EQ(lines.next(), "one");
  EXPECT_EQ(lines.next(), "two");
  EXPECT_EQ(lines.next(), "");
  EXPECT_EQ(lines.next(), std::nullopt);
  EXPECT_TRUE(lines.push(std::string(LineBuffer::kMost - 2, 'x')));
  EXPECT_FALSE(lines.push("yz\n"));
  EXPECT_EQ(lines.next(), std::nullopt);
  LineBuffer other;
  EXPECT_FALSE(other.push("first\n" + std::string(LineBuffer::kMost + 1, 'x') + "\n"));
  EXPECT_EQ(other.next(), "first");
  EXPECT_EQ(other.next(), std::nullopt);
}

}  // namespace
}  // namespace hotset
