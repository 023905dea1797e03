// Which experts are resident, by whose choice and whether they were read ahead changes no bit of
// what `hotset eval` writes.
#include "tests/tools/cli.h"

namespace hotset {
namespace {

class ResidencyCliTest : public CliTest {
 protected:
  std::string text() const {
    std::ofstream(path("text"))
        << "The cat sat on the mat, and the dog slept. What is 2+2? It is 4, "
           "and then the cat sat on the dog, who did not like that at all.";
    return path("text");
  }
  // The logits as they lie in the file, and whether experts were missed on the way.
  std::string logits(const std::string& more, bool& has_missed) const {
    const json out = hotset_json("eval --json -m " + kDemo + " --file " + text() + " --logits " +
                                 path("logits.npy") + " " + more);
    has_missed = out["expert_misses"] > 0;
    return content(path("logits.npy"));
  }
};

// --decode: one token after another, as generation does; else the whole text at once.
TEST_F(ResidencyCliTest, LogitsAreTheSameForEveryPolicyBudgetAndPrefetch) {
  for (const std::string way : {" --decode", ""}) {
    bool has_missed = true;
    const std::string expected = logits(way + " --ram 100%", has_missed);
    ASSERT_GT(expected.size(), 10000u);
    EXPECT_FALSE(has_missed);
    for (const std::string policy : {"score", "lru", "lfu", "static"}) {
      for (const std::string ram : {"5%", "20%", "60%"}) {
        for (const std::string prefetch : {"on", "off"}) {
          if (way.empty() && prefetch == "on") continue;  // a prompt guesses nothing
          const std::string settings = way + " --ram " + ram + " --set cache.policy=" + policy +
                                       " --set cache.prefetch=" + prefetch;
          EXPECT_TRUE(logits(settings, has_missed) == expected) << settings;
          EXPECT_TRUE(has_missed) << settings;
        }
      }
    }
  }
}

}  // namespace
}  // namespace hotset
