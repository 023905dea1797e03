#include "tools/npy.h"

#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "kernels/check.h"

namespace hotset {
namespace {

namespace fs = std::filesystem;

class NpyTest : public testing::Test {
 protected:
  void SetUp() override {
    const auto* test = testing::UnitTest::GetInstance()->current_test_info();
    folder_ = fs::path(testing::TempDir()) / (std::string("npy_") + test->name());
    fs::remove_all(folder_);
    fs::create_directories(folder_);
  }
  std::string path(const char* name) const { return folder_ / name; }
  static std::string content(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
  }
  size_t files() const {
    return static_cast<size_t>(std::distance(fs::directory_iterator(folder_), {}));
  }

  fs::path folder_;
};

TEST_F(NpyTest, HeaderIsVersion1WithTheDataAt64Bytes) {
  NpyFile<float> file(path("a.npy"), {2, 3});
  const float values[] = {1, 2, 3, 4, 5, 6};
  file.write(0, values);
  file.commit();
  const std::string bytes = content(path("a.npy"));
  ASSERT_EQ(bytes.size(), 128 + sizeof values);
  EXPECT_EQ(bytes.substr(0, 8), std::string("\x93NUMPY\x01\x00", 8));
  EXPECT_EQ(bytes.substr(8, 2), std::string("\x76\x00", 2));  // 118 = 128 - 10
  const std::string dict = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }";
  EXPECT_EQ(bytes.substr(10, dict.size()), dict);
  EXPECT_EQ(bytes[127], '\n');
  EXPECT_EQ(std::memcmp(bytes.data() + 128, values, sizeof values), 0);
}

TEST_F(NpyTest, PiecesMayComeInAnyOrder) {
  NpyFile<int32_t> file(path("b.npy"), {4});
  const int32_t late[] = {3, 4}, early[] = {1, 2};
  file.write(2, late);
  file.write(0, early);
  file.commit();
  const std::string bytes = content(path("b.npy"));
  EXPECT_NE(bytes.find("'<i4'"), std::string::npos);
  EXPECT_NE(bytes.find("(4,)"), std::string::npos);
  const int32_t all[] = {1, 2, 3, 4};
  EXPECT_EQ(bytes.substr(bytes.size() - sizeof all),
            std::string(reinterpret_cast<const char*>(all), sizeof all));
}

TEST_F(NpyTest, AFileThatIsNotCommittedLeavesNothingBehind) {
  { NpyFile<float> file(path("c.npy"), {1}); }
  EXPECT_EQ(files(), 0u);
}

TEST_F(NpyTest, AFolderThatIsNotThereIsNamed) {
  try {
    NpyFile<float> file(path("none/d.npy"), {1});
    FAIL() << "expected an Error";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("none/d.npy"), std::string::npos);
  }
}

TEST_F(NpyTest, AnIncompleteArrayIsNotCommitted) {
  NpyFile<float> file(path("e.npy"), {2});
  const float one[] = {1};
  file.write(0, one);
  EXPECT_DEATH(file.commit(), "every element");
}

}  // namespace
}  // namespace hotset
