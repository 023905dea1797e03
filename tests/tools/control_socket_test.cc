// Both ends of the control socket, in one process: a thread serves, the test asks.
#include "tools/control_socket.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <thread>

#include "cache/ring.h"
#include "kernels/check.h"
#include "tools/engine_client.h"

namespace hotset {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

class ControlSocketTest : public testing::Test {
 protected:
  void SetUp() override {
    // Short: a socket's path has at most 107 bytes.
    std::string name = fs::path(testing::TempDir()) / "ctlXXXXXX";
    ASSERT_NE(mkdtemp(name.data()), nullptr);
    parent_ = name;
    folder_ = name + "/hotset";
  }
  void TearDown() override {
    stop();
    fs::remove_all(parent_);
  }
  void start(const ControlSocket::Handler& handler) {
    socket_ = std::make_unique<ControlSocket>(folder_);
    wake_ = eventfd(0, EFD_CLOEXEC);
    thread_ = std::thread([this, handler] {
      while (!ended_) socket_->serve(wake_, 10000, handler);
    });
  }
  void stop() {
    if (!thread_.joinable()) return;
    ended_ = true;
    const uint64_t one = 1;
    ASSERT_EQ(write(wake_, &one, sizeof(one)), 8);
    thread_.join();
    close(wake_);
    socket_.reset();
  }
  // A client without manners.
  int connect_raw() const {
    const int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    socket_->path().copy(address.sun_path, sizeof(address.sun_path) - 1);
    EXPECT_EQ(connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
    return fd;
  }
  std::string ask() const { return ask_engine(folder_, getpid(), {ControlCommand::kStats, {}}); }

  std::string parent_, folder_;
  std::unique_ptr<ControlSocket> socket_;
  std::atomic<bool> ended_ = false;
  int wake_ = -1;
  std::thread thread_;
};

const ControlSocket::Handler kEcho = [](const std::string& line) { return line + "\n"; };

TEST_F(ControlSocketTest, AnswersALineWithALineAndIsForItsUserOnly) {
  start(kEcho);
  EXPECT_EQ(ask(), "{\"command\":\"stats\"}\n");
  struct stat status {};
  ASSERT_EQ(stat(folder_.c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0700u);
  ASSERT_EQ(stat(socket_->path().c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0600u);
  EXPECT_EQ(engines_in(folder_), std::vector<int>{getpid()});
  stop();
  EXPECT_TRUE(fs::is_empty(folder_));
}

TEST_F(ControlSocketTest, AFolderThatOthersMayEnterIsRefused) {
  fs::create_directory(folder_);
  chmod(folder_.c_str(), 0755);
  EXPECT_THROW(ControlSocket socket(folder_), Error);
  fs::remove(folder_);
  fs::create_directory(parent_ + "/elsewhere");
  chmod((parent_ + "/elsewhere").c_str(), 0700);
  fs::create_symlink(parent_ + "/elsewhere", folder_);
  EXPECT_THROW(ControlSocket socket(folder_), Error);
}

TEST_F(ControlSocketTest, APathTooLongForASocketIsAnError) {
  fs::create_directory(parent_ + "/" + std::string(100, 'x'));
  EXPECT_THROW(ControlSocket(parent_ + "/" + std::string(100, 'x') + "/hotset"), Error);
}

TEST_F(ControlSocketTest, WhatADeadProcessLeftIsRemovedAndWhatIsNotOursStays) {
  { ControlSocket socket(folder_); }
  const std::string dead = folder_ + "/999999999.sock";
  const int fd = socket(AF_UNIX, SOCK_STREAM, 0);
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  dead.copy(address.sun_path, sizeof(address.sun_path) - 1);
  ASSERT_EQ(bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  close(fd);  // nobody listens
  std::ofstream(folder_ + "/notes.sock") << "x";
  EXPECT_EQ(engines_in(folder_), std::vector<int>{});
  EXPECT_FALSE(fs::exists(dead));
  EXPECT_TRUE(fs::exists(folder_ + "/notes.sock"));
  EXPECT_EQ(engines_in(folder_ + "/none"), std::vector<int>{});
  EXPECT_THROW(ask(), Error);
}

TEST_F(ControlSocketTest, ClientsWithoutMannersKeepNobodyWaiting) {
  start(kEcho);
  std::vector<int> silent;
  for (int i = 0; i < 20; ++i) silent.push_back(connect_raw());
  EXPECT_EQ(ask(), "{\"command\":\"stats\"}\n");
  char none;
  EXPECT_EQ(recv(silent[0], &none, 1, 0), 0) << "it has made room";

  // One that asks for ever and never reads an answer.
  const int deaf = connect_raw();
  const std::string line = std::string(4000, 'x') + "\n";
  while (send(deaf, line.data(), line.size(), MSG_NOSIGNAL) > 0) {
  }
  EXPECT_EQ(ask(), "{\"command\":\"stats\"}\n");

  // One whose line never ends gets a refusal.
  const int endless = connect_raw();
  const std::string much(3 * LineBuffer::kMost, 'x');
  send(endless, much.data(), much.size(), MSG_NOSIGNAL);
  char bytes[512] = {};
  ASSERT_GT(recv(endless, bytes, sizeof(bytes) - 1, 0), 0);
  EXPECT_THAT(bytes, HasSubstr("at most"));
  EXPECT_EQ(ask(), "{\"command\":\"stats\"}\n");

  // One that goes away in the middle of its line.
  const int gone = connect_raw();
  send(gone, "{\"comm", 6, MSG_NOSIGNAL);
  close(gone);
  EXPECT_EQ(ask(), "{\"command\":\"stats\"}\n");
  for (const int fd : silent) close(fd);
  for (const int fd : {deaf, endless}) close(fd);
}

TEST_F(ControlSocketTest, WhoDoesNotAnswerInTimeIsAnError) {
  socket_ = std::make_unique<ControlSocket>(folder_);  // and nobody serves
  EXPECT_THROW(ask_engine(folder_, getpid(), {}, 100), Error);
  socket_.reset();
}

TEST_F(ControlSocketTest, AnEngineIsFoundInWhicheverFolderItIs) {
  const std::vector<std::string> folders = {parent_ + "/session", folder_};
  EXPECT_THROW(find_engine(folders, {}), Error);
  socket_ = std::make_unique<ControlSocket>(folder_);
  for (const std::optional<int>& asked : {std::optional<int>(), std::optional(getpid())}) {
    const EngineAddress found = find_engine(folders, asked);
    EXPECT_EQ(found.folder, folder_);
    EXPECT_EQ(found.pid, getpid());
  }
  const ControlSocket other(folders[0]);
  EXPECT_THROW(find_engine(folders, {}), ConfigError) << "there are two";
}

// What a killed engine left, whose number another one was given.
TEST_F(ControlSocketTest, ADeadEnginesSocketDoesNotHideALivingOne) {
  const std::vector<std::string> folders = {parent_ + "/session", folder_};
  make_private_folder(folders[0]);
  const int dead = socket(AF_UNIX, SOCK_STREAM, 0);
  sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = {}};
  socket_path(folders[0], getpid()).copy(address.sun_path, sizeof address.sun_path - 1);
  ASSERT_EQ(bind(dead, reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
  close(dead);
  socket_ = std::make_unique<ControlSocket>(folder_);
  EXPECT_EQ(find_engine(folders, getpid()).folder, folder_);
}

TEST_F(ControlSocketTest, AFolderThatOthersMayWriteIntoHasNoEngines) {
  socket_ = std::make_unique<ControlSocket>(folder_);
  ASSERT_EQ(chmod(folder_.c_str(), 0770), 0);
  EXPECT_EQ(engines_in(folder_), std::vector<int>{});
  EXPECT_THROW(find_engine({{folder_}}, getpid()), Error);
}

TEST_F(ControlSocketTest, AnotherUserIsNotAnsweredWhateverTheModesSay) {
  if (geteuid() != 0) GTEST_SKIP() << "needs root: only root may become somebody else";
  start(kEcho);
  for (const std::string& open : {parent_, folder_, socket_->path()}) {
    ASSERT_EQ(chmod(open.c_str(), 0777), 0);
  }
  const pid_t child = fork();
  if (child == 0) {
    constexpr uid_t kNobody = 65534;
    if (setuid(kNobody) != 0) _exit(2);
    const int fd = connect_raw();
    send(fd, "hello\n", 6, MSG_NOSIGNAL);
    char byte;
    _exit(recv(fd, &byte, 1, 0) > 0 ? 1 : 0);
  }
  int status = -1;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0) << "2: could not become somebody else";
  EXPECT_EQ(ask(), "{\"command\":\"stats\"}\n");
}

TEST_F(ControlSocketTest, LinesInPiecesAndSeveralInOneAreAnswered) {
  start(kEcho);
  const int fd = connect_raw();
  for (const char* piece : {"a", "b\nc", "d\nef\n"}) {
    send(fd, piece, std::string(piece).size(), MSG_NOSIGNAL);
  }
  std::string answers;
  char bytes[64];
  while (answers.size() < 9) {
    const ssize_t got = recv(fd, bytes, sizeof(bytes), 0);
    ASSERT_GT(got, 0);
    answers.append(bytes, static_cast<size_t>(got));
  }
  EXPECT_EQ(answers, "ab\ncd\nef\n");
  close(fd);
}

}  // namespace
}  // namespace hotset
