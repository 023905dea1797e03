#include "tools/live_settings.h"

#include <fmt/format.h>
#include <unistd.h>

#include <any>
#include <map>

#include "tools/card_choice.h"
#include "tools/config_walk.h"
#include "tools/control_protocol.h"
#include "tools/memory_budget.h"
#include "tools/size.h"

namespace hotset {
namespace {

using nlohmann::ordered_json;

// The keys whose values differ.
std::vector<std::string> changed_keys(const Config& a, const Config& b, bool is_live) {
  std::map<std::string, std::any> values;
  std::vector<std::string> keys;
  walk_config(
      a, "", [&](const std::string& key, const auto& value, const About&) { values[key] = value; });
  walk_config(b, "", [&](const std::string& key, const auto& value, const About& about) {
    using T = std::remove_cvref_t<decltype(value)>;
    if (about.is_live == is_live && std::any_cast<const T&>(values[key]) != value) {
      keys.push_back(key);
    }
  });
  return keys;
}

// `config` with the live keys of `wanted`.
Config with_live_keys(Config config, const Config& wanted) {
  std::map<std::string, std::any> values;
  walk_config(wanted, "", [&](const std::string& key, const auto& value, const About& about) {
    if (about.is_live) values[key] = value;
  });
  walk_config(config, "", [&](const std::string& key, auto& value, const About& about) {
    using T = std::remove_cvref_t<decltype(value)>;
    if (about.is_live) value = std::any_cast<const T&>(values[key]);
  });
  return config;
}

std::vector<std::string> live_keys() {
  std::vector<std::string> keys;
  const Config defaults;
  walk_config(defaults, "", [&](const std::string& key, const auto&, const About& about) {
    if (about.is_live) keys.push_back(key);
  });
  return keys;
}

}  // namespace

LiveSettings::LiveSettings(Engine& engine, Config config, std::function<Config()> reread)
    : engine_(engine),
      config_(std::move(config)),
      reread_(std::move(reread)),
      expert_bytes_(engine.cache().plan().slot_bytes_total) {}

std::string LiveSettings::answer(const std::string& line) {
  try {
    const ControlRequest request = parse_request(line);
    ordered_json out = {{"ok", true}};
    switch (request.command) {
      case ControlCommand::kStats:
        out.update(stats());
        break;
      case ControlCommand::kSet:
        out.update(set(request.settings));
        break;
      case ControlCommand::kReload:
        out.update(reload());
        break;
    }
    return out.dump(-1, ' ', false, ordered_json::error_handler_t::replace) + "\n";
  } catch (const ConfigError& error) {
    return refusal_line(error.what(), true);
  } catch (const std::exception& error) {  // out of memory as well: the next request may be smaller
    return refusal_line(error.what(), false);
  }
}

ordered_json LiveSettings::stats() const {
  const CacheStats cache = engine_.cache_stats();
  const SlotPlan plan = engine_.cache().plan();
  ordered_json settings = ordered_json::parse(dump_config_json(config_));
  std::vector<int64_t> expert_bytes(engine_.config().num_hidden_layers);
  for (const SlotPlan::Class& sizes : plan.classes) {
    for (const int32_t layer : sizes.layers) expert_bytes[layer] = sizes.slot_bytes;
  }
  return {{"pid", getpid()},
          {"model", engine_.config().name},
          {"experts",
           {{"budget_bytes", expert_bytes_},
            {"slot_bytes", plan.slot_bytes_total},
            {"resident_bytes", engine_.cache().resident_bytes()},
            {"all_bytes", plan.expert_bytes_total},
            {"layer_expert_bytes", expert_bytes},
            {"hits", cache.hits},
            {"misses", cache.misses},
            {"hit_rate", cache.hit_rate()},
            {"evictions", cache.evictions},
            {"bytes_read", cache.bytes_read}}},
          {"card", card_json(engine_)},
          {"settings", std::move(settings)}};
}

ordered_json LiveSettings::set(const std::vector<std::string>& assignments) {
  Config wanted = config_;
  for (const std::string& assignment : assignments) set_config(wanted, assignment);
  check_config(wanted);
  if (const auto fixed = changed_keys(config_, wanted, false); !fixed.empty()) {
    throw ConfigError(fmt::format("{}: cannot be changed while the engine runs; what can: {}",
                                  fmt::join(fixed, ", "), fmt::join(live_keys(), ", ")));
  }
  const std::vector<std::string> changed = changed_keys(config_, wanted, true);
  change_to(wanted);
  return {{"changed", changed}};
}

ordered_json LiveSettings::reload() {
  const Config wanted = reread_();
  const std::vector<std::string> changed = changed_keys(config_, wanted, true);
  const std::vector<std::string> fixed = changed_keys(config_, wanted, false);
  change_to(with_live_keys(config_, wanted));
  return {{"changed", changed}, {"needs_restart", fixed}};
}

// Everything that can be refused is, before anything is changed.
void LiveSettings::change_to(const Config& wanted) {
  MemoryPlan plan = engine_.memory_plan();
  const int64_t rest = plan.total() - plan.experts.slot_bytes_total;
  const MemoryBudget budget = memory_budget(wanted, memory_room());
  const int64_t bytes = expert_bytes_of(wanted.ram, plan.experts.expert_bytes_total, rest, budget);
  const bool resizes =
      wanted.ram != config_.ram || wanted.memory.headroom != config_.memory.headroom;
  if (resizes) {
    plan.experts = engine_.plan_experts(bytes);
    check_fits(plan, budget);
  }
  if (wanted.vram != config_.vram) {
    if (const auto room = card_room(engine_, wanted)) engine_.set_card_room(*room);
  }
  if (resizes) {
    engine_.resize_experts(bytes);
    expert_bytes_ = engine_.cache().plan().slot_bytes_total;
  }
  if (wanted.cache.policy != config_.cache.policy ||
      wanted.cache.half_life != config_.cache.half_life) {
    engine_.replace_policy(policy_options(wanted.cache));
  }
  config_ = wanted;
}

std::string LiveSettings::heed_pressure(double now_s) {
  if (!config_.memory.pressure) return "";
  const auto pressure = memory_pressure();
  if (!pressure) return "";
  const SlotPlan plan = engine_.cache().plan();
  const int64_t bytes =
      governor_.next(*pressure, now_s, plan.slot_bytes_total, expert_bytes_, plan.least_bytes);
  if (bytes == plan.slot_bytes_total) return "";
  try {
    engine_.resize_experts(bytes);
  } catch (const Error&) {
    return "";  // no memory to grow into: as good as pressure
  }
  const int64_t now_bytes = engine_.cache().plan().slot_bytes_total;
  return fmt::format("the machine is {} memory: experts {} {} of {}",
                     now_bytes < plan.slot_bytes_total ? "short of" : "no longer short of",
                     now_bytes < plan.slot_bytes_total ? "shrink to" : "grow to",
                     human_bytes(now_bytes), human_bytes(expert_bytes_));
}

}  // namespace hotset
