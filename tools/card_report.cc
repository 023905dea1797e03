#include "tools/card_report.h"

#include <fmt/format.h>

#include <algorithm>

#include "profiler/simulator.h"
#include "runtime/card/card_plan.h"
#include "runtime/model/expert_file_source.h"
#include "runtime/model/weights.h"
#include "tools/size.h"

namespace hotset {
namespace {

using nlohmann::ordered_json;

constexpr double kUsualHits = 0.70;  // what recency gives at 15 % of the experts

// What a token reads of each part, from the shapes alone.
TokenBytes token_bytes(const ModelDescription& model) {
  const std::vector<ExpertShape> shapes = expert_shapes(model);
  const Weights weights = plan_weights(model);
  TokenBytes out;
  const auto sum = [](std::initializer_list<const PackedMatrix*> matrices) {
    int64_t bytes = 0;
    for (const PackedMatrix* matrix : matrices) bytes += matrix->shape.bytes;
    return bytes;
  };
  for (size_t i = 0; i < weights.layers.size(); ++i) {
    const LayerWeights& l = weights.layers[i];
    TokenBytes::Layer layer;
    layer.mixer = l.is_delta_net
                      ? sum({&l.delta_net.qkv, &l.delta_net.z, &l.delta_net.ba, &l.delta_net.out})
                      : sum({&l.attention.q, &l.attention.k, &l.attention.v, &l.attention.o});
    layer.mixer += l.moe.router.shape.bytes;
    if (l.moe.has_shared_expert) {
      layer.shared =
          sum({&l.moe.shared_gate, &l.moe.shared.gate, &l.moe.shared.up, &l.moe.shared.down});
    }
    layer.expert = shapes[i].bytes;
    out.layers.push_back(layer);
  }
  out.head = weights.output.shape.bytes;
  return out;
}

// A copy reads the host's memory as a miss would; a hit saves a miss there and costs the card's.
double price_of_a_copy(const CardRates& rates) {
  return 1 / (1 - std::min(0.9, rates.dram_gbps / (rates.card_gbps * rates.card_efficiency)));
}

ordered_json time_json(const TokenTime& sum, double tokens, double hit_rate) {
  const double ms = 1e3 * sum.total() / tokens;
  const std::pair<const char*, double> parts[] = {{"dense weights on the card", sum.mixers},
                                                  {"experts on the card", sum.card},
                                                  {"experts on the CPU", sum.cpu},
                                                  {"synchronisation", sum.sync}};
  ordered_json shares = ordered_json::object();
  for (const auto& [name, seconds] : parts) shares[name] = 1e3 * seconds / tokens;
  const auto* limit = std::max_element(std::begin(parts), std::end(parts),
                                       [](auto& a, auto& b) { return a.second < b.second; });
  return {{"hit_rate", hit_rate},
          {"token_ms", ms},
          {"tokens_per_second", 1e3 / ms},
          {"ms_by_lane", shares},
          {"limited_by", limit->first}};
}

// A hundred tokens, so that copies reach their steady state.
ordered_json expected_time(const TokenBytes& bytes, const CardRates& rates, double top_k,
                           double hit_rate) {
  TokenModel model(bytes, rates);
  const double misses = top_k * (1 - hit_rate);
  // Every second miss is worth its copy: what the priced policy makes of routing with locality.
  const std::vector<LayerPicks> picks(bytes.layers.size(), {top_k * hit_rate, misses, misses / 2});
  TokenTime sum;
  constexpr int kTokens = 100;
  for (int i = 0; i < kTokens; ++i) sum += model.token(picks);
  return time_json(sum, kTokens, hit_rate);
}

ordered_json simulated_time(const TokenBytes& bytes, const CardPlan& plan,
                            const CardQuestion& question, const ModelConfig& config) {
  const RoutingTrace trace = load_trace(question.trace);
  const TraceHeader& h = trace.header;
  if (h.layers != std::ssize(bytes.layers) || h.experts != config.num_experts) {
    throw Error(fmt::format("{}: found {} layers of {} experts, expected the model's {} of {}",
                            question.trace, h.layers, h.experts, bytes.layers.size(),
                            config.num_experts));
  }
  TokenModel model(bytes, question.rates);
  std::vector<LayerPicks> picks(bytes.layers.size());
  TokenTime sum;
  double tokens = 0, rows = 0;
  const auto end_step = [&] {
    if (rows == 0) return;
    sum += model.token(picks);
    tokens += rows;
    std::fill(picks.begin(), picks.end(), LayerPicks());
  };
  const double price = price_of_a_copy(question.rates);
  const Replay replayed = replay(
      trace, slot_pools(plan.experts), [](PolicyShape s) { return make_policy({}, std::move(s)); },
      price,
      [&](const EventCounts& e) {
        if (e.is_new_step) end_step();
        rows = e.rows;
        picks[e.layer] = {static_cast<double>(e.hits), static_cast<double>(e.accesses - e.hits),
                          static_cast<double>(e.insertions)};
      });
  end_step();
  if (tokens == 0) throw Error(question.trace + ": found no decoded token, expected some");
  ordered_json out = time_json(sum, tokens, replayed.hit_rate());
  out["copies_per_token_layer"] = replayed.per_event(replayed.insertions);
  out["belady_hit_rate"] = replay_belady(trace, slot_pools(plan.experts)).hit_rate();
  return out;
}

}  // namespace

ordered_json card_report(const ModelDescription& model, const MemoryPlan& host,
                         const CardQuestion& question) {
  const ModelConfig& c = model.config;
  const CardPlan plan = plan_card(host, question.vram_bytes, question.ring);
  const TokenBytes bytes = token_bytes(model);
  int64_t slots = 0;
  for (const SlotPlan::Class& slot_class : plan.experts.classes) slots += slot_class.slots;
  const CardRates& r = question.rates;
  ordered_json out = {
      {"not_measured_on_a_card", true},
      {"bytes",
       {{"vram", plan.vram},
        {"kept_free", plan.headroom},
        {"dense", plan.dense},
        {"kv", plan.kv},
        {"recurrent", plan.recurrent},
        {"workspace", plan.workspace},
        {"prompt_ring", plan.prompt_ring},
        {"residency_table", plan.residency},
        {"experts", plan.experts.slot_bytes_total},
        {"experts_all", plan.experts.expert_bytes_total}}},
      {"slots", slots},
      {"slots_per_layer", static_cast<double>(slots) / static_cast<double>(bytes.layers.size())},
      {"experts_per_layer", c.num_experts},
      {"rates",
       {{"card_gbps", r.card_gbps},
        {"card_efficiency", r.card_efficiency},
        {"dram_gbps", r.dram_gbps},
        {"link_gbps", r.link_gbps},
        {"sync_us", r.sync_us}}},
      {"expected", expected_time(bytes, r, static_cast<double>(c.num_experts_per_tok),
                                 plan.experts.all_resident() ? 1.0 : kUsualHits)}};
  if (!question.trace.empty()) out["simulated"] = simulated_time(bytes, plan, question, c);
  return out;
}

void print_card_report(const ordered_json& report) {
  const ordered_json& b = report["bytes"];
  const auto size = [&](const char* key) { return human_bytes(b[key].get<int64_t>()); };
  fmt::print(
      "card         {} of memory: kept free {}, dense {}, kv {}, recurrent {}, workspace {}, "
      "prompts {}, table {}, experts {} of {}\n",
      size("vram"), size("kept_free"), size("dense"), size("kv"), size("recurrent"),
      size("workspace"), size("prompt_ring"), size("residency_table"), size("experts"),
      size("experts_all"));
  const double per_layer = report["slots_per_layer"];
  fmt::print("slots        {}: {:.1f} of a layer's {} experts ({:.1f} %)\n",
             report["slots"].get<int64_t>(), per_layer, report["experts_per_layer"].get<int32_t>(),
             100 * per_layer / report["experts_per_layer"].get<double>());
  const ordered_json& r = report["rates"];
  fmt::print(
      "rates        card {:.0f} GB/s ({:.0f} % of it used), memory {:.0f} GB/s, link {:.0f} "
      "GB/s, {:.0f} us of synchronisation a layer: stated, not measured on a card\n",
      r["card_gbps"].get<double>(), 100 * r["card_efficiency"].get<double>(),
      r["dram_gbps"].get<double>(), r["link_gbps"].get<double>(), r["sync_us"].get<double>());
  for (const char* kind : {"expected", "simulated"}) {
    if (!report.contains(kind)) continue;
    const ordered_json& t = report[kind];
    fmt::print("{:<12} {:.1f} % hits{}: a token in {:.1f} ms, {:.1f} tokens/s; limited by {} (",
               kind, 100 * t["hit_rate"].get<double>(),
               t.contains("belady_hit_rate") ? fmt::format(" (no policy more than {:.1f} %)",
                                                           100 * t["belady_hit_rate"].get<double>())
                                             : "",
               t["token_ms"].get<double>(), t["tokens_per_second"].get<double>(),
               t["limited_by"].get<std::string>());
    const char* separator = "";
    for (const auto& [lane, ms] : t["ms_by_lane"].items()) {
      fmt::print("{}{} {:.1f} ms", separator, lane, ms.get<double>());
      separator = ", ";
    }
    fmt::print(")\n");
  }
}

}  // namespace hotset
