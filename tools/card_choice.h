// Which device computes, and how much of a card's memory experts get (`device`, `vram`).
#pragma once

#include <cstdint>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "kernels/cuda/card_runtime.h"
#include "runtime/engine.h"
#include "tools/config.h"

namespace hotset {

struct CardChoice {
  std::shared_ptr<CardRuntime> card;  // null: the CPU computes
  CardRoom room;                      // on it
  std::string name = "cpu";           // for outputs: "cpu", "emulated", "cuda: NAME"
  std::string notice;                 // what the user should know of it, a line; or ""
};

// `host`: the plan without a card. Of `vram` a percentage is of all experts; a size is what may be
// taken of the card's memory in all, auto what of it is free. Auto goes without a card that is not
// there, or that is too small for what every token needs; a device asked for by name is then an
// Error.
CardChoice choose_card(const Config& config, const MemoryPlan& host);

// The same of `vram` for an engine that has a card: what it has there counts as free. A ring for
// prompts stays; where there is none yet but will be one it has its room. Nothing without a card: a
// step may leave it at any time.
std::optional<CardRoom> card_room(const Engine& engine, const Config& config);

// What the user should know of a card once an engine has what it takes of it, a line; or "". An
// emulated card's times say nothing, and its memory is as large as it likes.
std::string spill_notice(const CardMemoryInfo& after, const CardMemoryPlan& has);

// The card's slots in numbers, for --json; null without a card.
nlohmann::ordered_json card_json(const Engine& engine);

}  // namespace hotset
