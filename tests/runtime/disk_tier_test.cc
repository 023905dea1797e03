// Experts that are read as steps need them: the same bits whatever reads them and ahead of what;
// faults of the file end a step, not the session; and counts that a throttled disk cannot change.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>

#include "kernels/check.h"
#include "runtime/model/expert_file_source.h"
#include "runtime/model/expert_predictor.h"
#include "runtime/model/expert_sidecar_source.h"
#include "tests/support/engine.h"

namespace hotset::test {
namespace {

namespace fs = std::filesystem;
using testing::AllOf;
using testing::HasSubstr;

const std::string kDemo = "demo/hotset-demo-q4_0.gguf";

std::vector<int32_t> some_ids(int64_t count) {
  std::vector<int32_t> ids;
  for (int64_t i = 0; i < count; ++i) ids.push_back(static_cast<int32_t>(20 + i * i % 280));
  return ids;
}

std::vector<float> decoded(Engine& engine, std::span<const int32_t> ids) {
  return all_logits(engine, ids, 1);
}

EngineOptions options(int64_t expert_bytes) {
  EngineOptions o = small_options();
  o.expert_bytes = expert_bytes;
  return o;
}

// Guesses as given, whatever the rows are.
struct FixedPredictor : ExpertPredictor {
  bool predict(int32_t layer, Rows, const Routing& guess) override {
    for (int64_t i = 0; i < guess.rows * guess.k; ++i) {
      guess.experts[i] = static_cast<int32_t>((layer * 7 + i * 3) % experts);
    }
    ++calls;
    return true;
  }
  int32_t experts = 1, calls = 0;
};

TEST(DiskTierTest, PolicyBudgetAndPrefetchNeverChangeABit) {
  const std::vector<int32_t> ids = some_ids(48);
  const auto resident = open_engine(data_path(kDemo), options(INT64_MAX));
  const std::vector<float> expected = decoded(*resident, ids);
  FixedPredictor fixed;
  fixed.experts = static_cast<int32_t>(resident->config().num_experts);
  for (const PolicyKind policy : {PolicyKind::kScore, PolicyKind::kLru, PolicyKind::kLfu}) {
    for (const int64_t budget : {int64_t{0}, int64_t{2} << 20}) {
      for (const Prefetch prefetch : {Prefetch::kOff, Prefetch::kOn, Prefetch::kAuto}) {
        EngineOptions o = options(budget);
        o.policy.kind = policy;
        o.prefetch = prefetch;
        if (policy == PolicyKind::kLfu) o.predictor = &fixed;
        const auto engine = open_engine(data_path(kDemo), o);
        EXPECT_EQ(decoded(*engine, ids), expected)
            << policy_names()[static_cast<int>(policy)] << ", budget " << budget;
        engine->cache().verify();
      }
    }
  }
  EXPECT_GT(fixed.calls, 0);
}

TEST(DiskTierTest, TheNextRoutersGuessesAreBetterThanChance) {
  EngineOptions o = options(2 << 20);
  o.prefetch = Prefetch::kOn;
  const auto engine = open_engine(data_path(kDemo), o);
  decoded(*engine, some_ids(64));
  const PrefetchStats stats = engine->cache().prefetch_stats();
  const ModelConfig& c = engine->config();
  // Every layer but the first is guessed, once a token.
  EXPECT_EQ(stats.guessed, 64 * (c.num_hidden_layers - 1) * c.num_experts_per_tok);
  EXPECT_EQ(stats.picked, stats.guessed);
  EXPECT_GT(stats.recall(),
            3.0 * static_cast<double>(c.num_experts_per_tok) / static_cast<double>(c.num_experts));
  EXPECT_GT(stats.reads.used, 0);
  std::printf("router prediction on the demo model: %.1f %% of its picks\n", 100 * stats.recall());
}

TEST(DiskTierTest, ALiveResizeKeepsTheBits) {
  const std::vector<int32_t> ids = some_ids(40);
  const std::vector<float> expected =
      decoded(*open_engine(data_path(kDemo), options(INT64_MAX)), ids);
  const auto engine = open_engine(data_path(kDemo), options(4 << 20));
  std::jthread control([&](const std::stop_token& stop) {
    for (int i = 0; !stop.stop_requested(); ++i) {
      engine->resize_experts((1 + i % 5) << 20);
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  });
  EXPECT_EQ(decoded(*engine, ids), expected);
  control.request_stop();
  control.join();
  engine->cache().verify();
}

class ChangedFileTest : public testing::Test {
 protected:
  void SetUp() override {
    folder_ =
        fs::path(testing::TempDir()) /
        (std::string("changed_") + testing::UnitTest::GetInstance()->current_test_info()->name());
    fs::remove_all(folder_);
    fs::create_directories(folder_);
    fs::copy(data_path(kDemo), path());
  }
  void TearDown() override { fs::remove_all(folder_); }
  fs::path path() const { return folder_ / "model.gguf"; }
  std::string step_error(Engine& engine, Session& session) const {
    try {
      feed(engine, session, {{9}});
      return "";
    } catch (const Error& error) {
      return error.what();
    }
  }
  fs::path folder_;
};

TEST_F(ChangedFileTest, AFileCutShortEndsTheStepAndOnlyThat) {
  const auto engine = open_engine(path(), options(0));
  Session session = engine->open_session();
  feed(*engine, session, {{7}});
  const Snapshot before = session.snapshot();
  const auto bytes = fs::file_size(path());
  const auto time = fs::last_write_time(path());
  std::string all(bytes, ' ');
  std::ifstream(path(), std::ios::binary).read(all.data(), static_cast<std::streamsize>(bytes));
  fs::resize_file(path(), bytes / 4);
  const std::string error = step_error(*engine, session);
  EXPECT_THAT(error, AllOf(HasSubstr(path().string()), HasSubstr("while in use"),
                           HasSubstr("expert "), HasSubstr("from offset ")));
  engine->cache().verify();
  // The file is as it was again: so is the session.
  std::ofstream(path(), std::ios::binary) << all;
  fs::last_write_time(path(), time);
  session.restore(before);
  const std::span<const float> logits = feed(*engine, session, {{9}});
  const std::vector<float> after(logits.begin(), logits.end());
  session.restore(before);
  const std::span<const float> again = feed(*engine, session, {{9}});
  EXPECT_TRUE(std::equal(again.begin(), again.end(), after.begin()));
}

// In the middle of a page, and before the end of what is asked for: what is left of that page comes
// again and again.
TEST_F(ChangedFileTest, AFileCutWithinAReadIsNoticedInEveryWayOfReading) {
  const File file(path());
  Memory landing(landing_bytes_of(8 * kPageBytes), "a test");
  constexpr int64_t kLeft = 3 * kPageBytes + 100;
  fs::resize_file(path(), kLeft);
  for (const FileReads reads : {FileReads::kBuffered, FileReads::kDirect}) {
    const LandingFile landings(file, reads);
    try {
      landings.read(kPageBytes + 10, 7 * kPageBytes, landing.data());
      ADD_FAILURE() << "read what is not there";
    } catch (const Error& error) {
      EXPECT_THAT(error.what(), AllOf(HasSubstr(path().string()), HasSubstr("ends at byte 12388")));
    }
  }
}

void touch(const fs::path& path) {
  fs::last_write_time(path, fs::last_write_time(path) + std::chrono::seconds(5));
}

// Of the same size, and of the same contents but for one byte.
void change_byte(const fs::path& path, int64_t at) {
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  char byte = 0;
  file.seekg(at).get(byte);
  file.seekp(at).put(static_cast<char>(byte ^ 1));
  file.close();
  touch(path);  // clocks of file systems are coarse
}

TEST_F(ChangedFileTest, AFileWrittenInPlaceIsNoticed) {
  const auto engine = open_engine(path(), options(0));
  Session session = engine->open_session();
  feed(*engine, session, {{7}});
  change_byte(path(), static_cast<int64_t>(fs::file_size(path())) - 1);
  EXPECT_THAT(step_error(*engine, session),
              AllOf(HasSubstr(path().string()), HasSubstr("was changed while in use")));
  change_byte(path(), static_cast<int64_t>(fs::file_size(path())) - 1);
  EXPECT_EQ(step_error(*engine, session), "") << "the file is as it was";
}

TEST_F(ChangedFileTest, ATouchedOrMovedFileIsReadAsBefore) {
  const auto engine = open_engine(path(), options(0));
  Session session = engine->open_session();
  feed(*engine, session, {{7}});
  touch(path());
  EXPECT_EQ(step_error(*engine, session), "");
  fs::rename(path(), folder_ / "elsewhere.gguf");
  touch(folder_ / "elsewhere.gguf");
  EXPECT_EQ(step_error(*engine, session), "");
}

TEST_F(ChangedFileTest, AFolderIsKnownByItsContentsToo) {
  const fs::path model = folder_ / "folder";
  fs::copy(small_model(), model, fs::copy_options::recursive);
  const auto engine = open_engine(model, options(0));
  Session session = engine->open_session();
  feed(*engine, session, {{7}});
  for (const auto& file : fs::directory_iterator(model)) touch(file.path());
  EXPECT_EQ(step_error(*engine, session), "");
  change_byte(model / "model.safetensors",
              static_cast<int64_t>(fs::file_size(model / "model.safetensors")) - 1);
  EXPECT_THAT(step_error(*engine, session), HasSubstr("was changed while in use"));
}

TEST_F(ChangedFileTest, AFileReplacedUnderItsNameStaysWhatItWas) {
  const std::vector<int32_t> ids = some_ids(8);
  const std::vector<float> expected = decoded(*open_engine(path(), options(0)), ids);
  const auto engine = open_engine(path(), options(0));
  fs::copy(data_path("models/qwen3_moe/qwen3_moe-Q4_0.gguf"), folder_ / "other");
  fs::rename(folder_ / "other", path());
  EXPECT_EQ(decoded(*engine, ids), expected);
}

// Both sources, whole and in parts, past the page cache and through it.
TEST_F(ChangedFileTest, EveryWayOfReadingBringsTheSameBytes) {
  const ModelDescription description = open_model(path());
  const std::string sidecar_path = folder_ / "s.hotset";
  write_sidecar(description, sidecar_path, [](int64_t, int64_t) {});
  ExpertFileSource reference(description, 1);
  for (const FileReads reads : {FileReads::kBuffered, FileReads::kDirect}) {
    ExpertFileSource file(description, 1, 1, reads);
    Sidecar sidecar(sidecar_path, description, [](const std::string& d) { FAIL() << d; });
    ExpertSidecarSource packed(sidecar, file, reads);
    const auto bytes = static_cast<size_t>(file.shapes()[0].bytes);
    Memory landing(std::max(file.landing_bytes(), packed.landing_bytes()), "a test");
    Memory expected(file.expert_bytes(0), "a test"), slot(file.expert_bytes(0), "a test");
    const auto span = [&](const Memory& m) {
      return std::span(m.data(), static_cast<size_t>(file.expert_bytes(0)));
    };
    for (int32_t expert = 0; expert < file.experts_per_layer(); expert += 5) {
      reference.load({0, expert}, span(expected));
      for (ExpertSource* source :
           {static_cast<ExpertSource*>(&file), static_cast<ExpertSource*>(&packed)}) {
        std::memset(slot.data(), 1, bytes);
        for (int32_t p = 0; p < source->parts(); ++p) source->read({0, expert}, p, landing.data());
        for (int32_t t = 0; t < source->pack_tasks(); ++t) {
          source->pack({0, expert}, t, landing.data(), span(slot));
        }
        ASSERT_EQ(std::memcmp(slot.data(), expected.data(), bytes), 0) << "expert " << expert;
        std::memset(slot.data(), 1, bytes);
        EXPECT_GT(source->load({0, expert}, span(slot)), 0);
        ASSERT_EQ(std::memcmp(slot.data(), expected.data(), bytes), 0) << "expert " << expert;
      }
      for (int32_t p = 0; p < packed.parts(); ++p) packed.read({0, expert}, p, slot.data());
      ASSERT_EQ(std::memcmp(slot.data(), expected.data(), bytes), 0);
    }
  }
}

// Whoever reads a part has checked it: no later look would find what is wrong.
TEST_F(ChangedFileTest, ADamagedPartOfASidecarComesFromTheModelsFile) {
  const ModelDescription description = open_model(path());
  const std::string sidecar_path = folder_ / "s.hotset";
  write_sidecar(description, sidecar_path, [](int64_t, int64_t) {});
  const ExpertId id{1, 3};
  const int64_t expert_at = Sidecar(sidecar_path, description, {}).expert_at(id);
  for (const FileReads reads : {FileReads::kBuffered, FileReads::kDirect}) {
    ExpertFileSource file(description, 1, 1, reads);
    const auto bytes = static_cast<size_t>(file.shapes()[id.layer].bytes);
    Memory landing(file.expert_bytes(id.layer), "a test");
    Memory expected(file.expert_bytes(id.layer), "a test");
    const auto span = [&](const Memory& m) {
      return std::span(m.data(), static_cast<size_t>(file.expert_bytes(id.layer)));
    };
    file.load(id, span(expected));
    for (int32_t damaged = 0; damaged < kExpertParts; ++damaged) {
      const auto [begin, end] = expert_part(static_cast<int64_t>(bytes), damaged);
      ASSERT_LT(begin, end);
      change_byte(sidecar_path, expert_at + end - 1);
      std::string damage;
      Sidecar sidecar(sidecar_path, description, [&](const std::string& d) { damage = d; });
      ExpertSidecarSource packed(sidecar, file, reads);
      std::memset(landing.data(), 1, bytes);
      for (int32_t p = 0; p < kExpertParts; ++p) packed.read(id, p, landing.data());
      EXPECT_EQ(std::memcmp(landing.data(), expected.data(), bytes), 0) << "part " << damaged;
      EXPECT_THAT(damage, AllOf(HasSubstr(sidecar_path), HasSubstr("expert 3 of layer 1")));
      std::memset(landing.data(), 1, bytes);
      packed.load(id, span(landing));
      EXPECT_EQ(std::memcmp(landing.data(), expected.data(), bytes), 0) << "part " << damaged;
      change_byte(sidecar_path, expert_at + end - 1);
    }
  }
}

// The demo model's experts from a disk of 1 ms an expert.
class ThrottledSource : public ExpertSource {
 public:
  explicit ThrottledSource(ExpertFileSource& file) : file_(file) {}
  int32_t layer_count() const override { return file_.layer_count(); }
  int32_t experts_per_layer() const override { return file_.experts_per_layer(); }
  int64_t expert_bytes(int32_t layer) const override { return file_.expert_bytes(layer); }
  int64_t load(ExpertId id, std::span<std::byte> slot) override { return file_.load(id, slot); }
  int32_t parts() const override { return file_.parts(); }
  int64_t landing_bytes() const override { return file_.landing_bytes(); }
  int64_t read(ExpertId id, int32_t part, std::byte* landing) override {
    if (part == 0) {
      ++experts_read;
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    return file_.read(id, part, landing);
  }
  int32_t pack_tasks() const override { return file_.pack_tasks(); }
  void pack(ExpertId id, int32_t task, const std::byte* landing,
            std::span<std::byte> slot) override {
    file_.pack(id, task, landing, slot);
  }
  std::atomic<int> experts_read = 0;

 private:
  ExpertFileSource& file_;
};

TEST(ThrottledDiskTest, CountsAreExactAndGuessesHideReads) {
  // What the demo model picks for a text.
  const auto engine = open_engine(data_path(kDemo), options(INT64_MAX));
  const std::vector<int32_t> ids = some_ids(24);
  Recorder recorder(engine->config());
  all_logits(*engine, ids, 0, &recorder);
  const auto k = static_cast<int32_t>(recorder.k);
  const auto layers = static_cast<int32_t>(engine->config().num_hidden_layers);

  const ModelDescription description = open_model(data_path(kDemo));
  int64_t misses_without = -1;
  for (const bool guesses : {false, true}) {
    ExpertFileSource file(description, 1);
    ThrottledSource disk(file);
    ThreadPool pool(2);
    const SlotPlan plan = plan_slots(disk, file.expert_bytes(0) * k * layers * 2, k);
    ExpertCache cache(disk, plan, pool,
                      [&](PolicyShape shape) {
                        shape.top_k = k;
                        return make_policy({.kind = PolicyKind::kLru}, std::move(shape));
                      },
                      {.floor = k, .reading_threads = 2, .reads = 3 * k});
    const auto row = [&](int32_t layer, size_t t) {
      return std::span(recorder.experts[layer]).subspan(t * k, k);
    };
    int64_t leased = 0;
    for (size_t t = 0; t < ids.size(); ++t) {
      for (int32_t layer = 0; layer < layers; ++layer) {
        std::vector<Pick> p;
        for (int32_t i = 0; i < k; ++i) p.push_back({row(layer, t)[i], i});
        cache.begin(layer, p, static_cast<int64_t>(t));
        if (guesses && layer + 1 < layers) cache.expect(layer + 1, row(layer + 1, t));
        while (true) {
          const auto wave = cache.next_wave(100);
          if (wave.empty()) break;
          leased += std::ssize(wave);
        }
        cache.end();
        std::this_thread::sleep_for(std::chrono::microseconds(300));  // its arithmetic
      }
    }
    cache.verify();
    const CacheStats stats = cache.stats();
    const PrefetchStats prefetch = cache.prefetch_stats();
    EXPECT_EQ(leased, std::ssize(ids) * layers * k);
    EXPECT_EQ(stats.hits + stats.misses, leased);
    EXPECT_EQ(disk.experts_read, stats.misses) << "each miss is read once, nothing else is";
    EXPECT_EQ(prefetch.reads.needed, stats.misses);
    EXPECT_GT(stats.evictions, 0);
    if (!guesses) {
      misses_without = stats.misses;
      EXPECT_EQ(prefetch.reads.guesses, 0);
      EXPECT_EQ(prefetch.reads.hidden_ns, 0);
    } else {
      // Guesses that are right change neither what is missed nor what is read, only when.
      EXPECT_EQ(stats.misses, misses_without);
      EXPECT_EQ(prefetch.reads.used, prefetch.reads.guesses);
      EXPECT_DOUBLE_EQ(prefetch.recall(), 1);
      EXPECT_DOUBLE_EQ(prefetch.precision(), 1);
      EXPECT_EQ(prefetch.reads.bytes_unused, 0);
      EXPECT_GT(prefetch.reads.hidden_ns, 0);
    }
  }
}

}  // namespace
}  // namespace hotset::test
