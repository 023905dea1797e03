// Runs the binary as a user would: exit code, standard output and standard error apart.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>

namespace hotset {

using nlohmann::json;

inline const std::string kDemo = HOTSET_SOURCE_DIR "/tests/data/demo/hotset-demo-q4_0.gguf";

struct Result {
  int exit_code = -1;
  std::string out, err;
};

inline std::string content(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

// `before` a command that gets Ctrl-C after a second. In the foreground it gets one signal; else
// timeout sends it to the group, too, and a second Ctrl-C is a plain _exit.
inline constexpr const char* kCtrlC = "timeout --foreground --preserve-status -s INT 1";

class CliTest : public testing::Test {
 protected:
  void SetUp() override {
    const auto* test = testing::UnitTest::GetInstance()->current_test_info();
    folder_ = std::filesystem::path(testing::TempDir()) / (std::string("cli_") + test->name());
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(folder_);
  }
  std::string path(const std::string& name) const { return folder_ / name; }

  // `arguments` go through the shell, and `before` does (VARIABLE=value, commands); standard input
  // is empty unless they say otherwise.
  Result hotset(const std::string& arguments, const std::string& before = "") const {
    // The user's own cache folder is none of a test's business.
    const std::string command = "export XDG_CACHE_HOME=" + path("cache_home") + "; " + before +
                                " " + HOTSET_BINARY + " " + arguments + " > " + path("out") +
                                " 2> " + path("err") +
                                (arguments.find('<') == std::string::npos ? " < /dev/null" : "");
    const int status = std::system(command.c_str());
    return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, content(path("out")),
            content(path("err"))};
  }
  json hotset_json(const std::string& arguments) const {
    const Result result = hotset(arguments);
    EXPECT_EQ(result.exit_code, 0) << result.err;
    return json::parse(result.out, nullptr, false);
  }
  void expect_error(const std::string& arguments, int exit_code, const std::string& words) const {
    const Result result = hotset(arguments);
    EXPECT_EQ(result.exit_code, exit_code) << arguments;
    EXPECT_EQ(result.out, "") << arguments;
    EXPECT_THAT(result.err, testing::StartsWith("hotset: "));
    EXPECT_THAT(result.err, testing::HasSubstr(words));
    EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
  }

  std::filesystem::path folder_;
};

}  // namespace hotset
