// Sidecars: what comes from one is bit for bit what the model's file gives; one that is stale or
// damaged is refused or repaired from the model's file, and never changes an answer.
#include "runtime/model/sidecar.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <random>

#include "kernels/check.h"
#include "runtime/model/expert_file_source.h"
#include "runtime/model/weights.h"
#include "runtime/weights/checksum.h"
#include "tests/support/engine.h"

namespace hotset::test {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

constexpr auto kSilent = [](int64_t, int64_t) {};
const std::vector<int32_t> kIds = {1, 5, 9, 3, 200, 17, 40, 41, 42, 7, 300, 11};
const char* const kSmallModel = "qwen3_moe/qwen3_moe-Q4_0.gguf";

class SidecarTest : public testing::Test {
 protected:
  void SetUp() override {
    const auto* test = testing::UnitTest::GetInstance()->current_test_info();
    std::string name = std::string("sidecar_") + test->name();
    std::replace(name.begin(), name.end(), '/', '_');
    folder_ = fs::path(testing::TempDir()) / name;
    fs::remove_all(folder_);
    fs::create_directories(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }

  // A copy, so that its files can be changed.
  std::string add_model(const std::string& model) const {
    const fs::path copy = folder_ / fs::path(model).filename();
    fs::copy(data_path("models/" + model), copy);
    return copy;
  }
  std::string sidecar_path() const { return folder_ / "s.hotset"; }
  std::string write(const std::string& model) const {
    write_sidecar(open_model(model), sidecar_path(), kSilent);
    return sidecar_path();
  }
  std::unique_ptr<Sidecar> open(const std::string& model) {
    return std::make_unique<Sidecar>(sidecar_path(), open_model(model),
                                     [this](const std::string& d) { damages_.push_back(d); });
  }
  std::string refusal(const std::string& model) {
    try {
      open(model);
      return "";
    } catch (const Error& error) {
      return error.what();
    }
  }
  // Logits of kIds, with everything resident before and with a miss at every turn.
  std::vector<float> logits(const std::string& model, std::unique_ptr<Sidecar> sidecar,
                            bool waits = true, int64_t expert_bytes = INT64_MAX) const {
    const Engine::Progress silent = [](int64_t, int64_t, const char*) {};
    EngineOptions options{.threads = 2, .context = 64};
    options.expert_bytes = expert_bytes;
    Engine engine(open_model(model), options, silent, std::move(sidecar));
    if (waits) engine.wait_until_resident(silent);
    std::vector<float> all = all_logits(engine, kIds);
    engine.wait_until_resident(silent);
    engine.cache().verify();
    return all;
  }
  SidecarHead head() const {
    SidecarHead head;
    std::ifstream(sidecar_path(), std::ios::binary).read(reinterpret_cast<char*>(&head), 56);
    return head;
  }
  std::string contents() const {
    std::ifstream file(sidecar_path(), std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
  }
  void change(uint64_t at, const std::function<void(char&)>& how) const {
    std::fstream file(sidecar_path(), std::ios::in | std::ios::out | std::ios::binary);
    char byte;
    file.seekg(static_cast<std::streamoff>(at)).get(byte);
    how(byte);
    file.seekp(static_cast<std::streamoff>(at)).put(byte);
  }

  fs::path folder_;
  std::vector<std::string> damages_;
};

class SidecarModelTest : public SidecarTest, public testing::WithParamInterface<const char*> {};

TEST_P(SidecarModelTest, EveryByteIsThatOfTheModelsFile) {
  const std::string model = add_model(GetParam());
  write(model);
  const ModelDescription description = open_model(model);
  const auto sidecar = open(model);

  const Weights packed = load_weights(description, nullptr, kSilent);
  const Weights read = load_weights(description, sidecar.get(), kSilent);
  ASSERT_EQ(read.image_bytes, packed.image_bytes);
  EXPECT_EQ(std::memcmp(read.memory.data(), packed.memory.data(), packed.image_bytes), 0);
  EXPECT_EQ(
      std::memcmp(read.embedding.data(), packed.embedding.data(), description.embedding.bytes()),
      0);

  ExpertFileSource source(description, 1);
  for (int32_t layer = 0; layer < source.layer_count(); ++layer) {
    const auto bytes = static_cast<size_t>(source.shapes()[layer].bytes);
    for (int32_t expert = 0; expert < source.experts_per_layer(); ++expert) {
      std::vector<std::byte> from_model(bytes), from_sidecar(bytes);
      source.load({layer, expert}, from_model);
      ASSERT_TRUE(sidecar->read_expert({layer, expert}, from_sidecar));
      ASSERT_EQ(from_model, from_sidecar) << "expert " << expert << " of layer " << layer;
    }
  }
  EXPECT_TRUE(damages_.empty());
}

TEST_P(SidecarModelTest, LogitsAreTheSameWithAndWithoutOneAndBeforeAllIsResident) {
  const std::string model = add_model(GetParam());
  write(model);
  const std::vector<float> expected = logits(model, nullptr);
  EXPECT_EQ(logits(model, nullptr, false), expected);
  EXPECT_EQ(logits(model, open(model)), expected);
  EXPECT_EQ(logits(model, open(model), false), expected);
}

INSTANTIATE_TEST_SUITE_P(Models, SidecarModelTest,
                         testing::Values("qwen3_next-a/qwen3_next-a-Q4_0.gguf",
                                         "qwen3_next-k/qwen3_next-k-Q4_K_M.gguf", "qwen3_next-b",
                                         "qwen3_moe/qwen3_moe-MXFP4_MOE.gguf"),
                         [](const auto& info) { return std::to_string(info.index); });

TEST_F(SidecarTest, AMovedModelKeepsItsSidecarAndAChangedOneDoesNot) {
  const std::string model = add_model(kSmallModel), moved = folder_ / "moved.gguf";
  write(model);
  fs::rename(model, moved);
  EXPECT_EQ(refusal(moved), "");
  fs::last_write_time(moved, fs::last_write_time(moved) + std::chrono::seconds(1));
  EXPECT_EQ(refusal(moved), "");
  fs::copy(moved, folder_ / "copied.gguf");
  EXPECT_EQ(refusal(folder_ / "copied.gguf"), "");
  std::fstream(moved, std::ios::in | std::ios::out | std::ios::binary).seekp(-1, std::ios::end)
      << 'x';
  EXPECT_THAT(refusal(moved), HasSubstr("fingerprint"));
  EXPECT_THAT(refusal(data_path("models/qwen3_moe/qwen3_moe-Q8_0.gguf")), HasSubstr("fingerprint"));
}

TEST_F(SidecarTest, OneOfAnotherPackedVersionIsRefused) {
  const std::string model = add_model(kSmallModel);
  write(model);
  change(8, [](char& byte) { ++byte; });
  EXPECT_THAT(refusal(model), HasSubstr("version 2, expected version 1"));
}

TEST_F(SidecarTest, OneOfAnotherVersionOfTheFileIsRefused) {
  const std::string model = add_model(kSmallModel);
  write(model);
  change(7, [](char& byte) { byte = '1'; });
  EXPECT_THAT(refusal(model), HasSubstr("s.hotset: is not a sidecar, or one of another version"));
}

// If this fails, bytes have changed that sidecars out there hold: raise kPackedVersion, then the
// sums.
TEST_F(SidecarTest, PackedBytesAreThoseOfTheirVersion) {
  const std::pair<const char*, uint64_t> known[] = {
      {"qwen3_next-a/qwen3_next-a-Q4_0.gguf", 0x89c34489446a55e1},
      {"qwen3_next-k/qwen3_next-k-Q4_K_M.gguf", 0xed80c61fe9765bfb},
      {"qwen3_next-b", 0xf1513cf84373472a},
      {"qwen3_moe/qwen3_moe-MXFP4_MOE.gguf", 0xcdcbcedb093ebd9c}};
  ASSERT_EQ(kPackedVersion, 1u);
  for (const auto& [model, expected] : known) {
    write(data_path(std::string("models/") + model));
    const SidecarHead h = head();
    std::ifstream file(sidecar_path(), std::ios::binary);
    const std::vector<char> bytes((std::istreambuf_iterator<char>(file)), {});
    const SidecarLayout layout(open_model(data_path(std::string("models/") + model)), h.matrices,
                               static_cast<int64_t>(h.dense_bytes));
    Checksum sum;
    sum.add(std::as_bytes(std::span(bytes)).subspan(layout.dense_at));
    EXPECT_EQ(sum.value(), expected) << model;
  }
}

TEST_F(SidecarTest, ADamagedHeadIsRefusedByName) {
  const std::string model = add_model(kSmallModel);
  write(model);
  for (uint64_t at = 0; at < 56 + head().matrices + 8; ++at) {
    change(at, [](char& byte) { byte = static_cast<char>(byte ^ 16); });
    EXPECT_THAT(refusal(model), HasSubstr("s.hotset: ")) << "byte " << at;
    change(at, [](char& byte) { byte = static_cast<char>(byte ^ 16); });
  }
  EXPECT_EQ(refusal(model), "");
}

TEST_F(SidecarTest, ACutOneIsRefusedWhereverItWasCut) {
  const std::string model = add_model(kSmallModel);
  write(model);
  const uint64_t whole = fs::file_size(sidecar_path());
  for (const uint64_t bytes : {uint64_t{0}, uint64_t{1}, uint64_t{55}, uint64_t{56}, uint64_t{57},
                               uint64_t{4096}, whole / 2, whole - 1}) {
    write(model);
    fs::resize_file(sidecar_path(), bytes);
    EXPECT_THAT(refusal(model), HasSubstr("s.hotset: ")) << bytes << " bytes left";
  }
}

// Bits flipped anywhere, one a time: a refusal, or the right answer, and one word about it.
TEST_F(SidecarTest, AFlippedBitNeverChangesAnAnswer) {
  constexpr unsigned kSeed = 20261124;
  SCOPED_TRACE("seed " + std::to_string(kSeed));
  std::mt19937_64 random(kSeed);
  const std::string model = add_model(kSmallModel);
  write(model);
  const std::vector<float> expected = logits(model, nullptr);
  const uint64_t bytes = fs::file_size(sidecar_path());
  int refused = 0, repaired = 0, harmless = 0;
  int64_t repaired_by_steps = 0;  // which read what they pick
  for (int i = 0; i < 60; ++i) {
    const uint64_t at = random() % bytes;
    const char bit = static_cast<char>(1 << random() % 8);
    const auto flip = [&](char& byte) { byte = static_cast<char>(byte ^ bit); };
    change(at, flip);
    damages_.clear();
    if (refusal(model).empty()) {
      EXPECT_EQ(logits(model, open(model), i % 2 == 0), expected) << "byte " << at;
      EXPECT_LE(damages_.size(), 1u);
      ++(damages_.empty() ? harmless : repaired);  // harmless: between blobs
      damages_.clear();
      EXPECT_EQ(logits(model, open(model), false, 0), expected) << "byte " << at << ", by steps";
      repaired_by_steps += std::ssize(damages_);
    } else {
      ++refused;
    }
    change(at, flip);
  }
  EXPECT_GT(repaired, 30) << refused << " refused, " << harmless << " harmless";
  EXPECT_GT(repaired_by_steps, 30);
}

TEST_F(SidecarTest, DamageIsNamedOnceWithBlockFoundAndExpected) {
  const std::string model = add_model(kSmallModel);
  write(model);
  const std::vector<float> expected = logits(model, nullptr);
  const ModelDescription description = open_model(model);
  const SidecarLayout layout(description, head().matrices, head().dense_bytes);
  const auto flip = [](char& byte) { byte = static_cast<char>(byte ^ 1); };

  change(layout.dense_at + 100, flip);
  EXPECT_EQ(logits(model, open(model)), expected);
  ASSERT_EQ(damages_.size(), 1u);
  EXPECT_THAT(damages_[0], testing::MatchesRegex(".*s.hotset: dense block 0: found checksum "
                                                 "[0-9a-f]+, expected [0-9a-f]+"));
  change(layout.dense_at + 100, flip);

  damages_.clear();
  for (const int32_t expert : {2, 3}) change(layout.expert_at({1, expert}) + 8, flip);
  EXPECT_EQ(logits(model, open(model)), expected);
  ASSERT_EQ(damages_.size(), 1u);
  EXPECT_THAT(damages_[0], HasSubstr("of layer 1: found checksum "));
}

// Scales that are not finite: a step that computed with them before they were looked at would fail.
TEST_F(SidecarTest, ExpertsThatWouldGiveInfinitiesAreNeverComputedWith) {
  const std::string model = add_model(kSmallModel);
  write(model);
  const std::vector<float> expected = logits(model, nullptr);
  const ModelDescription description = open_model(model);
  const SidecarLayout layout(description, head().matrices, head().dense_bytes);
  {
    std::fstream file(sidecar_path(), std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(static_cast<std::streamoff>(layout.expert_at({1, 0})));
    const int64_t bytes = description.config.num_experts * layout.blob_stride[1];
    file << std::string(static_cast<size_t>(bytes), '\x7c');
  }
  EXPECT_EQ(logits(model, open(model), false, 0), expected);
  EXPECT_EQ(damages_.size(), 1u);
}

TEST_F(SidecarTest, OneCutWhileItIsUsedIsRepairedFromTheModel) {
  const std::string model = add_model(kSmallModel);
  write(model);
  const std::vector<float> expected = logits(model, nullptr);
  for (const double part : {0.0, 0.3, 0.9}) {
    write(model);
    damages_.clear();
    auto sidecar = open(model);
    fs::resize_file(sidecar_path(), static_cast<uint64_t>(
                                        part * static_cast<double>(fs::file_size(sidecar_path()))));
    EXPECT_EQ(logits(model, std::move(sidecar)), expected);
    ASSERT_EQ(damages_.size(), 1u);
    EXPECT_THAT(damages_[0], HasSubstr("cut while in use"));
  }
}

TEST_F(SidecarTest, AnInterruptedWriterIsContinuedWhereverItStopped) {
  struct Stop {};
  const ModelDescription description = open_model(data_path(std::string("models/") + kSmallModel));
  int calls = 0;
  write_sidecar(description, sidecar_path(), [&](int64_t, int64_t) { ++calls; });
  ASSERT_GE(calls, 4);
  const std::string whole = contents();
  const int64_t all = description.config.num_experts * std::ssize(description.layers);
  int64_t least_kept = 0;
  for (int stop_at = 1; stop_at <= calls; ++stop_at) {
    fs::remove(sidecar_path());
    const auto stop = [&, call = 0](int64_t, int64_t) mutable {
      if (++call == stop_at) throw Stop{};
    };
    EXPECT_THROW(write_sidecar(description, sidecar_path(), stop), Stop) << stop_at;
    EXPECT_FALSE(fs::exists(sidecar_path()));
    const int64_t kept = write_sidecar(description, sidecar_path(), kSilent);
    EXPECT_GE(kept, least_kept) << stop_at;
    least_kept = kept;
    EXPECT_TRUE(contents() == whole) << stop_at;
  }
  EXPECT_EQ(least_kept, all);
}

// Each of them is refused or made good, and the file is what it would have been.
TEST_F(SidecarTest, WhatAnInterruptedWriterLeftIsCheckedBeforeItIsTaken) {
  const std::string model = add_model(kSmallModel);
  write(model);
  const std::string whole = contents();
  const ModelDescription description = open_model(model);
  const SidecarLayout layout(description, head().matrices, head().dense_bytes);
  const int64_t all = description.config.num_experts * std::ssize(description.layers);
  // As after the last expert: whole but for the head's last letter and checksum.
  const auto unfinished = [&](uint64_t change_at, uint64_t bytes) {
    write(model);
    change(7, [](char& byte) { byte = '0'; });
    for (uint64_t at = offsetof(SidecarHead, checksum); at < sizeof(SidecarHead); ++at) {
      change(at, [](char& byte) { byte = 0; });
    }
    if (change_at > 0) change(change_at, [](char& byte) { byte = static_cast<char>(byte ^ 1); });
    fs::resize_file(sidecar_path(), bytes);
    fs::rename(sidecar_path(), sidecar_path() + ".part");
    const int64_t kept = write_sidecar(description, sidecar_path(), kSilent);
    EXPECT_TRUE(contents() == whole);
    return kept;
  };
  EXPECT_EQ(unfinished(0, whole.size()), all);
  EXPECT_EQ(unfinished(layout.expert_at({1, 2}) + 8, whole.size()), all - 1);
  EXPECT_EQ(unfinished(sizeof(SidecarHead) + 1, whole.size()), all);
  EXPECT_EQ(unfinished(offsetof(SidecarHead, fingerprint), whole.size()), 0);
  EXPECT_EQ(unfinished(offsetof(SidecarHead, packed_version), whole.size()), 0);
  EXPECT_EQ(unfinished(0, layout.expert_at({1, 0})), all / std::ssize(description.layers));
  EXPECT_EQ(unfinished(0, 70), 0);
  EXPECT_EQ(unfinished(0, 10), 0);
}

TEST_F(SidecarTest, TwoWritersAtOnceAreOneAndAnError) {
  const ModelDescription description = open_model(data_path(std::string("models/") + kSmallModel));
  bool is_first = true;
  write_sidecar(description, sidecar_path(), [&](int64_t, int64_t) {
    if (!std::exchange(is_first, false)) return;
    EXPECT_THROW(write_sidecar(description, sidecar_path(), kSilent), Error);
  });
  EXPECT_EQ(refusal(data_path(std::string("models/") + kSmallModel)), "");
}

}  // namespace
}  // namespace hotset::test
