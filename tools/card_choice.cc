#include "tools/card_choice.h"

#include <fmt/format.h>

#include <algorithm>

#include "kernels/cuda/card_kernels.h"
#include "kernels/cuda/cuda_runtime.h"
#include "kernels/cuda/fake_runtime.h"
#include "runtime/card/card_plan.h"
#include "tools/size.h"

namespace hotset {

namespace {

// Keys and values are reserved for all sessions: what they do not use yet holds experts.
CardRoom room_on(const std::string& vram, const MemoryPlan& host, int64_t free_bytes,
                 int32_t ring) {
  const bool is_auto = vram == "auto";
  if (!is_auto && Size::parse(vram)->is_percent()) {
    return {.expert_bytes = Size::parse(vram)->bytes_of(host.experts.expert_bytes_total)};
  }
  const int64_t most =
      is_auto ? free_bytes : std::min(free_bytes, Size::parse(vram)->bytes_of(free_bytes));
  const CardPlan plan = plan_card(host, most, ring);
  return {.expert_bytes = INT64_MAX, .with_kv_bytes = plan.experts.slot_bytes_total + plan.kv};
}

CardChoice go_without(const std::string& reason) {
  CardChoice choice;
  choice.notice = "device: cpu, since " + reason;
  return choice;
}

}  // namespace

CardChoice choose_card(const Config& config, const MemoryPlan& host) {
  CardChoice choice;
  if (config.device == "cpu") return choice;
  if (config.device == "emulated") {
    choice.card = make_fake_runtime();
    choice.name = "emulated";
    choice.notice =
        "device: emulated card; the card's code run on the CPU, to prove it: no card is used, and "
        "no time means anything";
  } else {
    CudaCard found = open_cuda_card();
    if (found.runtime == nullptr) {
      if (config.device != "auto") {
        throw Error(fmt::format("device: found {}, but {}; auto or cpu goes without", config.device,
                                found.reason));
      }
      const bool is_news = cuda_kernels() != nullptr;  // not in a build without CUDA
      return is_news ? go_without(found.reason) : choice;
    }
    choice.card = std::move(found.runtime);
    choice.name = "cuda: " + choice.card->name();
    choice.notice = "device: " + choice.card->name();
  }
  try {
    choice.room =
        room_on(config.vram, host, choice.card->memory_info().free_bytes, config.prompt.ring);
  } catch (const Error& error) {
    if (config.device != "auto") throw;
    return go_without(error.what());
  }
  return choice;
}

std::optional<CardRoom> card_room(const Engine& engine, const Config& config) {
  CardRuntime* const runtime = engine.card();
  MemoryPlan plan = engine.memory_plan();
  if (runtime == nullptr || !plan.card) return {};
  const CardMemoryPlan& card = *plan.card;
  plan.dense = card.dense;
  plan.kv = card.kv;
  plan.recurrent = card.recurrent;
  const int64_t ring_bytes = engine.card_ring_bytes();
  plan.workspace = card.workspace + ring_bytes;
  try {
    return room_on(config.vram, plan,
                   runtime->memory_info().free_bytes + engine.card_shared_bytes() + card.dense +
                       card.recurrent + plan.workspace,
                   ring_bytes == 0 ? config.prompt.ring : 0);
  } catch (const Error&) {
    if (engine.card() == nullptr) return {};  // left meanwhile: the numbers were of two moments
    throw;
  }
}

// Some systems hand out more than a card has, and move what is too much to the host's memory
// without an error: that memory is slow, and what the card says is free does not go on falling. Not
// measured on a card.
std::string spill_notice(const CardMemoryInfo& after, const CardMemoryPlan& has) {
  if (has.slow_bytes > 0) {
    return fmt::format(
        "device: {} of the card's {} for experts are several times slower than the rest: the "
        "system keeps them in the host's memory, and tokens take up to twice as long; lower vram "
        "by {}, or end what else uses the card",
        human_bytes(has.slow_bytes), human_bytes(has.slot_bytes), human_bytes(has.slow_bytes));
  }
  if (after.free_bytes >= kVramHeadroomBytes / 2) return "";
  return fmt::format(
      "device: the card has {} MB free now, less than half of the {} MB that are to stay free: "
      "where the system moves what is too much to the host's memory, tokens take twice as long; "
      "lower vram",
      after.free_bytes / 1'000'000, kVramHeadroomBytes / 1'000'000);
}

nlohmann::ordered_json card_json(const Engine& engine) {
  const std::shared_ptr<const CardTier> tier = engine.card_tier();
  const CardRuntime* const runtime = engine.card();
  if (tier == nullptr || runtime == nullptr) return nullptr;
  const CacheStats stats = tier->stats();
  const SlotPlan plan = tier->plan();
  const PromptStats prompts = engine.prompt_stats();
  return {{"emulated", runtime->is_emulated()},
          {"slot_bytes", plan.slot_bytes_total},
          {"expert_hits", stats.hits},
          {"expert_misses", stats.misses},
          {"hit_rate", stats.hit_rate()},
          {"evictions", stats.evictions},
          {"admission_price", tier->lambda()},
          {"prompt_experts_copied", prompts.copied},
          {"prompt_experts_computed_by_cpu", prompts.computed}};
}

}  // namespace hotset
