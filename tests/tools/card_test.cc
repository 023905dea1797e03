// `--device`: the emulated card gives the CPU's bits whatever lies in its slots, says what it is in
// every output, and a card that is not there is a reason and no crash. Proves the card's code as
// the CPU runs it; nothing of a card's own compiler, memory or time.
#include "runtime/card/card_plan.h"
#include "tests/support/on_demand.h"
#include "tests/tools/cli.h"
#include "tools/card_choice.h"
#include "tools/control_protocol.h"
#include "tools/model_options.h"

namespace hotset {
namespace {

using testing::HasSubstr;

class CardCliTest : public CliTest {
 protected:
  std::string text() const {
    std::ofstream(path("text")) << "The cat sat on the mat, and the dog slept. What is 2+2?";
    return path("text");
  }
  std::string logits(const std::string& more, json& out) const {
    out = hotset_json("eval --json -m " + kDemo + " --file " + text() + " --logits " +
                      path("logits.npy") + " " + more);
    return content(path("logits.npy"));
  }
};

TEST_F(CardCliTest, LogitsHaveTheCpusBitsForEveryNumberOfSlots) {
  HOTSET_NOT_UNDER_TSAN();
  for (const std::string way : {" --decode", ""}) {
    json out;
    const std::string expected = logits(way + " --device cpu", out);
    ASSERT_GT(expected.size(), 10000u);
    EXPECT_EQ(out["device"], "cpu");
    EXPECT_TRUE(out["card"].is_null());
    for (const std::string vram : {"0%", "10%", "50%", "100%"}) {
      const std::string settings = way + " --device emulated --vram " + vram;
      EXPECT_TRUE(logits(settings, out) == expected) << settings;
      EXPECT_EQ(out["device"], "emulated");
      EXPECT_EQ(out["card"]["emulated"], true);
      EXPECT_GT(out["card"]["expert_misses"], 0) << settings;
      if (vram == "0%") {
        EXPECT_EQ(out["card"]["expert_hits"], 0);
      } else if (vram == "100%" && !way.empty()) {
        EXPECT_GT(out["card"]["expert_hits"], 0);
      }
    }
  }
}

TEST_F(CardCliTest, APromptsRingHasTheSizeThatIsAskedForOrThereIsNone) {
  HOTSET_NOT_UNDER_TSAN();
  const std::string run = "eval --json -m " + kDemo + " --file " + text() +
                          " --device emulated --vram 10% --set prompt.ring=";
  const json with = hotset_json(run + "64"), without = hotset_json(run + "0");
  EXPECT_GT(with["card"]["prompt_experts_copied"], 0);
  EXPECT_EQ(without["card"]["prompt_experts_copied"], 0);
  EXPECT_GT(without["card"]["prompt_experts_computed_by_cpu"], 0);
  EXPECT_EQ(with["perplexity"], without["perplexity"]);
  const auto prompts = [&](const std::string& ring) {
    const Result answer =
        hotset("run -m " + kDemo + " -p 'The cat' -n 1 --device emulated --vram " +
               "10% --set prompt.ring=" + ring);
    return answer.err.substr(answer.err.rfind("prompts "), 12);
  };
  EXPECT_EQ(prompts("0"), "prompts 0 B;");
  EXPECT_NE(prompts("1"), prompts("2"));
}

// All experts have slots where a card has 64 GB, and a ring is of no use.
TEST(CardRoomTest, ALowerVramLeavesRoomForTheRingThatPromptsNeedThen) {
  Config config;
  config.device = "emulated";
  config.ctx = 256;
  EnginePlan plan = plan_engine(config, open_model(kDemo), memory_budget(config, memory_room()));
  const CardChoice choice = choose_card(config, plan.memory);
  plan.options.card = choice.card;
  plan.options.card_room = choice.room;
  Engine engine(open_model(kDemo), plan.options, [](int64_t, int64_t, const char*) {});
  LiveSettings settings(engine, config, [&] { return config; });
  const auto used = [&] {
    const CardMemoryInfo info = choice.card->memory_info();
    return info.total_bytes - info.free_bytes;
  };
  EXPECT_EQ(engine.card_ring_bytes(), 0);
  const CardMemoryPlan card = *engine.memory_plan().card;
  const int64_t room = used() - engine.card_shared_bytes() + card.kv + card.slot_bytes / 2;
  const std::string vram = std::to_string(kVramHeadroomBytes + room);
  const std::string answer =
      settings.answer(ControlRequest{ControlCommand::kSet, {"vram=" + vram}}.line());
  EXPECT_EQ(json::parse(answer)["ok"], true) << answer;
  EXPECT_GT(engine.card_ring_bytes(), 0);
  EXPECT_GT(engine.card_tier()->plan().slot_bytes_total, 0);
  EXPECT_LE(used(), room);
}

TEST_F(CardCliTest, AnAnswerSaysWhatComputedIt) {
  const std::string run = "run -m " + kDemo + " -p 'The cat' -n 8 --temp 0 ";
  const Result on_cpu = hotset(run + "--device cpu"), emulated = hotset(run + "--device emulated");
  EXPECT_EQ(emulated.exit_code, 0) << emulated.err;
  EXPECT_EQ(emulated.out, on_cpu.out);
  EXPECT_THAT(emulated.err, HasSubstr("emulated card"));
  EXPECT_EQ(hotset_json(run + "--device emulated --json")["device"], "emulated");
}

TEST_F(CardCliTest, WhatACardHasIsSaidApart) {
  const Result run = hotset("run -m " + kDemo + " -p 'The cat' -n 1 --device emulated");
  EXPECT_THAT(run.err, HasSubstr("\ncard: dense "));
  EXPECT_THAT(run.err, HasSubstr("memory: embedding "));
}

TEST_F(CardCliTest, CtrlCEndsItAsItEndsTheHosts) {
  const Result result = hotset("bench -p 0 -n 64 -r 1000000 --device emulated -m " + kDemo, kCtrlC);
  EXPECT_EQ(result.exit_code, 130);
  EXPECT_EQ(result.out, "");
}

// `device: auto` wants a card where one works, and an answer in any case.
TEST(CardFallbackTest, OnlyAutoGoesOnWithoutACardThatFails) {
  Config config;
  const auto reread = [&] { return config; };
  std::vector<std::string> devices;
  const auto load = [&](const Config& on) -> LoadedModel {
    devices.push_back(on.device);
    if (on.device != "cpu") throw CardError("the card: is on fire");
    LoadedModel loaded;
    loaded.device = "cpu";
    loaded.engine = std::make_unique<Engine>(open_model(kDemo), EngineOptions{},
                                             [](int64_t, int64_t, const char*) {});
    return loaded;
  };
  const LoadedModel loaded = load_with_card_or_without(config, reread, load);
  EXPECT_EQ(loaded.device, "cpu");
  EXPECT_EQ(loaded.device_notice, "device: cpu, since the card: is on fire");
  EXPECT_EQ(devices, (std::vector<std::string>{"auto", "cpu"}));
  const json reloaded = json::parse(loaded.settings->answer(R"({"command": "reload"})"));
  EXPECT_EQ(reloaded["needs_restart"], json::array()) << "nothing was changed: " << reloaded;
  config.device = "cuda";
  EXPECT_EQ(json::parse(loaded.settings->answer(R"({"command": "reload"})"))["needs_restart"],
            json::array({"device"}));
  EXPECT_THROW(load_with_card_or_without(config, reread, load), CardError);
  config.device = "auto";
  EXPECT_THROW(
      load_with_card_or_without(config, reread,
                                [](const Config&) -> LoadedModel { throw Error("a model's own"); }),
      Error);
}

TEST(CardFallbackTest, OfAnEngineWithoutACardNothingIsKnownAndNothingChanged) {
  Engine engine(open_model(kDemo), EngineOptions{}, [](int64_t, int64_t, const char*) {});
  EXPECT_FALSE(card_room(engine, Config()));
  engine.set_card_room({INT64_MAX});
  EXPECT_EQ(engine.card_shared_bytes() + engine.card_ring_bytes(), 0);
  EXPECT_EQ(engine.prompt_stats().copied + engine.prompt_stats().computed, 0);
  EXPECT_TRUE(card_json(engine).is_null());
}

TEST(CardFallbackTest, ACardThatIsNearlyFullIsTold) {
  const CardMemoryInfo roomy = {int64_t{5} << 30, int64_t{10} << 30};
  CardMemoryPlan has;
  EXPECT_EQ(spill_notice(roomy, has), "");
  EXPECT_THAT(spill_notice({100'000'000, int64_t{10} << 30}, has), HasSubstr("100 MB free"));
  has.slot_bytes = 6'000'000'000;
  has.slow_bytes = 410'000'000;
  EXPECT_THAT(spill_notice(roomy, has),
              AllOf(HasSubstr("410 MB of the card's 6.00 GB"), HasSubstr("lower vram by 410 MB")));
}

TEST_F(CardCliTest, ProfilingNeedsACard) {
  expect_error("run -m " + kDemo + " -p 'The cat' -n 1 --device cpu --profile", 2,
               "--profile needs a card (--device cuda), but device is cpu");
  EXPECT_EQ(hotset("run -m " + kDemo + " -p 'The cat' -n 1 --device emulated --profile").exit_code,
            0);
}

TEST_F(CardCliTest, ACardThatIsTooSmallIsAnErrorWithTheNumbers) {
  expect_error("run -m " + kDemo + " -p 'The cat' -n 1 --device emulated --vram 1MB", 1,
               "the card's memory is too small");
}

// CUDA_VISIBLE_DEVICES hides cards that this machine may have.
TEST_F(CardCliTest, WithoutACardAutoGoesOnAndCudaIsRefusedWithTheReason) {
  const std::string arguments = "run -m " + kDemo + " -p 'The cat' -n 2 --temp 0 --json --device ";
  const std::string hidden = "export CUDA_VISIBLE_DEVICES=''; ";
  const Result automatic = hotset(arguments + "auto", hidden);
  EXPECT_EQ(automatic.exit_code, 0) << automatic.err;
  EXPECT_EQ(json::parse(automatic.out)["device"], "cpu");
  const Result cuda = hotset(arguments + "cuda", hidden);
  EXPECT_EQ(cuda.exit_code, 1);
  EXPECT_THAT(cuda.err, HasSubstr("device: found cuda, but "));
  EXPECT_THAT(cuda.err, HasSubstr("auto or cpu goes without"));
  EXPECT_EQ(std::count(cuda.err.begin(), cuda.err.end(), '\n'), 1) << cuda.err;
}

}  // namespace
}  // namespace hotset
