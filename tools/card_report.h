// `hotset inspect --plan --vram`: where the bytes of a model would go on a card, and what a token
// would take by the model of profiler/token_model.h. Nothing in it was measured on a card.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "profiler/token_model.h"
#include "runtime/engine.h"

namespace hotset {

struct CardQuestion {
  int64_t vram_bytes = 0;
  int32_t ring = 0;  // prompt.ring
  CardRates rates;
  std::string trace;  // routing of this model; "": only the expectation at 70 % hits
};

// `host`: the engine's plan where all experts are in its memory. Throws Error.
nlohmann::ordered_json card_report(const ModelDescription& model, const MemoryPlan& host,
                                   const CardQuestion& question);
void print_card_report(const nlohmann::ordered_json& report);

}  // namespace hotset
