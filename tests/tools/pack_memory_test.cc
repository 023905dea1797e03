// `hotset pack` of a checkpoint with real layer shapes: the memory it takes is that of what it
// packs at once, and nothing of what the folder's files weigh.
#include <fmt/format.h>

#include "tests/tools/cli.h"

namespace hotset {
namespace {

class PackMemoryTest : public CliTest {
 protected:
  void TearDown() override { std::filesystem::remove_all(folder_); }
  // What packing the folder of this name says of itself. A layer has `experts` of 1.77 MB packed.
  json packed(const std::string& name, const std::string& options) const {
    const std::string make = fmt::format(
        "python3 {}/tools/bench/synth_checkpoint.py --format nf4dq --layers 1 --vocab 512 {} {} {}",
        HOTSET_SOURCE_DIR, options, path(name), "> /dev/null");
    EXPECT_EQ(std::system(make.c_str()), 0) << make;
    return hotset_json("pack --json " + path(name));
  }
};

// Of the packed model only the dense part and sixteen experts are held. The folders differ in how
// many experts they have, and in their files: had a shard been read as a whole, or had all experts
// been kept, those with more would take 140 MB more; and more than that, were anything kept for
// each of hundreds of shards, which cut modules apart.
TEST_F(PackMemoryTest, NeitherShardsNorTheNumberOfExpertsAddToThePeak) {
#if defined(HOTSET_SANITIZES_thread) || defined(HOTSET_SANITIZES_address)
  GTEST_SKIP() << "sanitizers have memory of their own";
#endif
  const json small = packed("small", "--experts 16");
  const json large = packed("large", "--experts 96 --one-shard");
  const auto bytes = [](const json& result, const char* key) { return result[key].get<int64_t>(); };
  constexpr int64_t kMore = 120'000'000, kNoise = 30'000'000;
  ASSERT_GT(bytes(large, "source_bytes"), bytes(small, "source_bytes") + kMore);
  EXPECT_GT(bytes(small, "peak_rss_bytes"), 10'000'000);
  EXPECT_LT(bytes(large, "peak_rss_bytes"), bytes(small, "peak_rss_bytes") + kNoise);
  // And so stays below the packed model and 1 GiB.
  EXPECT_LT(bytes(large, "peak_rss_bytes"), bytes(large, "file_bytes"));

  const json shards = packed("shards", "--experts 96 --shard-kb 400");
  const std::filesystem::directory_iterator files(path("shards"));
  EXPECT_GT(std::distance(begin(files), end(files)), 500);
  EXPECT_EQ(bytes(shards, "file_bytes"), bytes(large, "file_bytes"));
  EXPECT_LT(bytes(shards, "peak_rss_bytes"), bytes(large, "peak_rss_bytes") + kNoise);
}

}  // namespace
}  // namespace hotset
