#include "tools/gguf_writer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <filesystem>

#include "runtime/weights/gguf.h"

namespace hotset {
namespace {

std::string temp_path(const char* name) {
  const std::string path = std::filesystem::path(testing::TempDir()) / name;
  std::filesystem::remove(path);  // of an earlier run
  return path;
}

TEST(GgufWriterTest, WhatIsWrittenIsReadBack) {
  const std::string path = temp_path("writer.gguf");
  GgufWriter writer(path);
  writer.add_string("general.architecture", "test");
  writer.add_u32("a.count", 7);
  writer.add_f32("a.epsilon", 0.25);
  writer.add_bool("a.flag", true);
  writer.add_strings("a.names", {"one", "", "\xC4\xA0zwei"});
  writer.add_i32s("a.types", {1, -2, 3});
  const size_t small = writer.add_tensor("small", TensorType::kF32, {3});
  const size_t large = writer.add_tensor("large", TensorType::kQ8_0, {2, 2, 32});
  writer.begin();
  const float values[] = {1, 2, 3};
  const std::vector<std::byte> first(68, std::byte{0x11}), second(68, std::byte{0x22});
  writer.write(large, 68, second);  // in any order
  writer.write(small, 0, std::as_bytes(std::span(values)));
  writer.write(large, 0, first);
  EXPECT_FALSE(std::filesystem::exists(path)) << "before it is complete";
  writer.commit();

  const GgufFile file(path);
  EXPECT_EQ(file.files().front()->size(), writer.file_bytes());
  EXPECT_EQ(file.integer("a.count"), 7);
  EXPECT_EQ(file.number("a.epsilon"), 0.25);
  EXPECT_TRUE(file.boolean("a.flag"));
  EXPECT_EQ(file.strings("a.names"), (std::vector<std::string>{"one", "", "\xC4\xA0zwei"}));
  EXPECT_EQ(file.integers("a.types"), (std::vector<int64_t>{1, -2, 3}));
  ASSERT_EQ(file.tensors().size(), 2u);
  const TensorInfo* tensor = file.find("large");
  ASSERT_NE(tensor, nullptr);
  EXPECT_EQ(tensor->dims, (std::vector<int64_t>{2, 2, 32}));
  EXPECT_EQ(tensor->type, TensorType::kQ8_0);
  EXPECT_EQ(tensor->offset % 32, 0u);
  std::vector<std::byte> bytes(tensor->bytes);
  tensor->file->read(tensor->offset, bytes);
  std::vector<std::byte> expected(136, std::byte{0x11});
  std::fill(expected.begin() + 68, expected.end(), std::byte{0x22});
  EXPECT_EQ(bytes, expected);
  std::vector<std::byte> three(12);
  file.find("small")->file->read(file.find("small")->offset, three);
  EXPECT_EQ(std::memcmp(three.data(), values, sizeof values), 0);
}

TEST(GgufWriterTest, BytesOutsideTheirTensorAreOurBug) {
  GgufWriter writer(temp_path("outside.gguf"));
  writer.add_tensor("t", TensorType::kF32, {1});
  writer.begin();
  const std::vector<std::byte> bytes(8);
  EXPECT_DEATH(writer.write(0, 0, bytes), "inside the tensor");
}

TEST(GgufWriterTest, AFileThatIsNotCommittedDoesNotAppear) {
  const std::string path = temp_path("never.gguf");
  {
    GgufWriter writer(path);
    writer.begin();
  }
  EXPECT_FALSE(std::filesystem::exists(path));
}

}  // namespace
}  // namespace hotset
