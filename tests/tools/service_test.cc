// tools/hotset-daemon.service, run by hand as systemd would run it, since there is none in most
// places that run tests; systemd-analyze reads it where there is one.
#include <fmt/format.h>

#include "tests/tools/watch.h"

namespace hotset {
namespace {

using testing::HasSubstr;

class ServiceTest : public WatchTest {
 protected:
  void SetUp() override {
    WatchTest::SetUp();
    std::istringstream text(unit());
    for (std::string line; std::getline(text, line);) {
      const size_t equals = line.find('=');
      if (line.starts_with("#") || equals == std::string::npos) continue;
      settings_.emplace_back(line.substr(0, equals), line.substr(equals + 1));
    }
  }
  // As it is written, with this build's program in the installed one's place.
  static std::string unit() {
    std::string text = content(HOTSET_SOURCE_DIR "/tools/hotset-daemon.service");
    const std::string installed = "/usr/local/bin/hotset";
    const size_t at = text.find(installed);
    return at == std::string::npos ? text : text.replace(at, installed.size(), HOTSET_BINARY);
  }
  std::vector<std::string> values(const std::string& key) const {
    std::vector<std::string> found;
    for (const auto& [name, value] : settings_) {
      if (name == key) found.push_back(value);
    }
    return found;
  }
  // With what systemd puts in the place of its specifiers.
  std::string command(std::string text, pid_t main_pid = 0) const {
    for (const auto& [what, with] : {std::pair<std::string, std::string>{"%S", path("state")},
                                     {"%E", path("settings")},
                                     {"$MAINPID", std::to_string(main_pid)}}) {
      for (size_t at; (at = text.find(what)) != std::string::npos;) {
        text.replace(at, what.size(), with);
      }
    }
    return text;
  }
  int shell(const std::string& text) const { return std::system(text.c_str()); }

  std::vector<std::pair<std::string, std::string>> settings_;
};

TEST_F(ServiceTest, ItsCommandsStartADaemonThatWatchesReloadsAndStops) {
  for (int start = 0; start < 2; ++start) {  // a second one finds what the first has made
    for (const std::string& before : values("ExecStartPre")) {
      EXPECT_EQ(shell(command(before)), 0) << before;
    }
    EXPECT_TRUE(std::filesystem::is_regular_file(path("settings/hotset/daemon.yaml")));
    std::ofstream(path("settings/hotset/daemon.yaml")) << "daemon: {port: 0}\n";
  }
  ASSERT_EQ(values("ExecStart").size(), 1U);
  Process daemon_process("env " + here() + " " + command(values("ExecStart")[0]) + " 2> " +
                         path("d.err"));
  Process engine_process(engine());
  std::filesystem::create_symlink(path("state/hotset/daemon.jsonl"), path("d.jsonl"));
  ASSERT_TRUE(wait_for([&] { return has("d", "tick", engine_process); })) << said("d");
  EXPECT_NE(port("d"), 9477) << "the settings file is read";
  ASSERT_EQ(values("ExecReload").size(), 1U);
  EXPECT_EQ(shell(command(values("ExecReload")[0], daemon_process.pid())), 0);
  EXPECT_TRUE(wait_for([&] { return said("d").find("read again") != std::string::npos; }));
  EXPECT_TRUE(values("KillSignal").empty());  // SIGTERM
  daemon_process.kill(SIGTERM);
  EXPECT_EQ(daemon_process.wait(), 0) << "which Restart=on-failure takes for an end";
  EXPECT_EQ(count("d", "end of watch", engine_process.pid()), 1);
}

// Rings are this user's, in the runtime folder or /dev/shm; whether an engine lives is in /proc;
// who scrapes comes over the loopback device.
TEST_F(ServiceTest, NothingKeepsItFromRingsOrKeepsItsReadersAway) {
  for (const char* key : {"User", "DynamicUser", "PrivateUsers", "ProtectHome", "InaccessiblePaths",
                          "ProcSubset", "TemporaryFileSystem", "RootDirectory", "PrivateNetwork",
                          "IPAddressDeny", "UnsetEnvironment"}) {
    EXPECT_TRUE(values(key).empty()) << key;
  }
  EXPECT_EQ(values("NoNewPrivileges"), std::vector<std::string>{"yes"});
  EXPECT_EQ(values("WantedBy"), std::vector<std::string>{"default.target"});  // of a user's manager
}

// The daemon has its user's XDG_RUNTIME_DIR, what cron starts has none. Both folders are made new,
// in a mount namespace, where nobody else's engines are.
TEST_F(ServiceTest, EnginesWithinASessionAndWithoutOneAreSeenFromBothSides) {
  if (shell("unshare --map-root-user --mount mount -t tmpfs tmpfs /run 2> /dev/null") != 0) {
    GTEST_SKIP() << "needs user namespaces: unshare --map-root-user --mount";
  }
  std::ofstream(path("script")) << "hotset=" << HOTSET_BINARY << " model=" << kDemo << R"(
    set -e
    mount -t tmpfs tmpfs /run
    mount -t tmpfs tmpfs /dev/shm
    mkdir -m 700 -p /run/user/0
    within=XDG_RUNTIME_DIR=/run/user/0 without="-u XDG_RUNTIME_DIR" engines=""
    trap 'kill $engines' EXIT
    for place in "$within" "$without"; do
      env $place $hotset bench -m $model --threads 1 -n 4000 -r 1000 > /dev/null 2>&1 < /dev/null &
      engines="$engines $!"
    done
    for place in "$within" "$without"; do
      for pid in $engines; do
        n=0
        until env $place $hotset ctl --pid $pid stats; do
          n=$((n + 1)); test $n -lt 600; sleep 0.1
        done
        env $place $hotset top --json | grep "\"pid\":$pid,"
      done
    done
  )";
  const std::string said = " > " + path("said") + " 2>&1";
  EXPECT_EQ(shell("unshare --map-root-user --mount sh " + path("script") + said), 0)
      << content(path("said"));
}

TEST_F(ServiceTest, SystemdUnderstandsEveryLine) {
  if (shell("command -v systemd-analyze > /dev/null 2>&1") != 0) {
    GTEST_SKIP() << "needs Debian's package systemd: systemd-analyze";
  }
  const auto verdict = [&](const std::string& text) {
    std::ofstream(path("hotset-daemon.service")) << text;
    const int status = shell("env " + here() + " systemd-analyze --user --man=no verify " +
                             path("hotset-daemon.service") + " > " + path("verdict") + " 2>&1");
    return fmt::format("{} {}", status, content(path("verdict")));
  };
  EXPECT_EQ(verdict(unit()), "0 ");
  EXPECT_THAT(verdict(unit() + "[Service]\nNiceness=10\n"), HasSubstr("Niceness"));
}

}  // namespace
}  // namespace hotset
