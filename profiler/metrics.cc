#include "profiler/metrics.h"

#include <prometheus/text_serializer.h>

namespace hotset {

prometheus::Family<prometheus::Counter>& Metrics::counter(const char* name, const char* help) {
  return prometheus::BuildCounter().Name(name).Help(help).Register(registry_);
}

prometheus::Family<prometheus::Gauge>& Metrics::gauge(const char* name, const char* help) {
  return prometheus::BuildGauge().Name(name).Help(help).Register(registry_);
}

Metrics::Metrics()
    : engines_(gauge("hotset_engines", "Engines that run.").Add({})),
      log_lines_lost_(
          counter("hotset_daemon_log_lines_lost_total", "Lines that the log could not take.")
              .Add({})),
      tokens_(counter("hotset_tokens_total", "Tokens decoded.")),
      prompt_tokens_(counter("hotset_prompt_tokens_total", "Tokens of prompts.")),
      picks_(counter("hotset_expert_picks_total",
                     "Experts that a layer's step needed; source=\"resident\" is a hit.")),
      token_time_(counter("hotset_token_time_seconds_total",
                          "Time of decoded tokens, by what it was spent on.")),
      slow_(counter("hotset_slow_tokens_total",
                    "Tokens far slower than the median, by what most of their time went into.")),
      read_bytes_(counter("hotset_read_bytes_total", "Bytes read of experts, by why.")),
      copied_bytes_(counter("hotset_copied_bytes_total", "Bytes copied to the card, by why.")),
      admissions_(counter("hotset_admissions_total", "Experts that became resident.")),
      evictions_(counter("hotset_evictions_total", "Experts that were given up.")),
      admissions_hit_(counter("hotset_admissions_hit_total",
                              "Experts that became resident and were then hit at least once.")),
      evictions_unhit_(counter("hotset_evictions_unhit_total",
                               "Experts that were given up without ever having been hit.")),
      card_picks_(counter("hotset_card_expert_picks_total",
                          "Experts that a layer's step on a card needed, by whether it had them.")),
      predictions_(counter("hotset_predictions_total", "Experts predicted for a layer.")),
      errors_(counter("hotset_errors_total", "Steps that an error ended.")),
      records_lost_(
          counter("hotset_records_lost_total", "Records overwritten before the daemon read them.")),
      records_invalid_(
          counter("hotset_records_invalid_total", "Records that contradict the format.")),
      resident_(
          gauge("hotset_expert_resident_bytes", "Memory that resident experts take, by tier.")),
      budget_(gauge("hotset_expert_budget_bytes", "Memory that experts may take, by tier.")),
      guard_on_(gauge("hotset_guard_on",
                      "Engines in which the runtime uses this lane; 0 where it lost in all.")),
      latency_(prometheus::BuildHistogram()
                   .Name("hotset_token_latency_seconds")
                   .Help("Time from one token to the next.")
                   .Register(registry_)),
      read_duration_(prometheus::BuildHistogram()
                         .Name("hotset_read_duration_seconds")
                         .Help("Time to read and pack one expert.")
                         .Register(registry_)),
      reuse_(prometheus::BuildHistogram()
                 .Name("hotset_reuse_distance_experts")
                 .Help("Distinct experts of the layer used since an expert was used last.")
                 .Register(registry_)) {}

void Metrics::begin(uint64_t log_lines_lost) {
  log_lines_lost_.Increment(static_cast<double>(log_lines_lost) - log_lines_lost_.Value());
  engines_.Set(0);
  for (const auto& [gauge, family] : of_engines_) family->Remove(gauge);
  of_engines_.clear();
}

prometheus::Gauge& Metrics::of_engine(const EngineMetrics& engine,
                                      prometheus::Family<prometheus::Gauge>& family,
                                      Labels labels) {
  labels["model"] = engine.model_;
  prometheus::Gauge& gauge = family.Add(labels);
  of_engines_[&gauge] = &family;
  return gauge;
}

void Metrics::count(EngineMetrics& engine, prometheus::Family<prometheus::Counter>& family,
                    Labels labels, double total) {
  labels["model"] = engine.model_;
  prometheus::Counter& counter = family.Add(labels);
  double& counted = engine.counted_[&counter];
  if (total > counted) {
    counter.Increment(total - counted);
    counted = total;
  }
}

// Buckets end at powers of two of the unit's values, where ours do: so they are exact.
void Metrics::observe(EngineMetrics& engine, prometheus::Family<prometheus::Histogram>& family,
                      const Histogram& values, double unit, int first_octave, int octaves) {
  std::vector<double> bounds;
  std::vector<double> counts;
  double before = 0;
  for (int i = 0; i < octaves; ++i) {
    const uint64_t most = (uint64_t{1} << (first_octave + i)) - 1;
    const auto up_to = static_cast<double>(values.count_up_to(most));
    bounds.push_back(static_cast<double>(most) * unit);
    counts.push_back(up_to - before);
    before = up_to;
  }
  counts.push_back(static_cast<double>(values.count()) - before);
  prometheus::Histogram& histogram = family.Add({{"model", engine.model_}}, bounds);
  auto& [counted, sum] = engine.observed_[&histogram];
  counted.resize(counts.size());
  std::vector<double> more(counts.size());
  for (size_t i = 0; i < counts.size(); ++i) more[i] = counts[i] - counted[i];
  histogram.ObserveMultiple(more, values.sum() * unit - sum);
  counted = counts;
  sum = values.sum() * unit;
}

void Metrics::add_picks(EngineMetrics& engine, const Statistics& s) {
  for (int32_t layer = 0; layer < s.layers(); ++layer) {
    for (int source = 0; source < kPickSources; ++source) {
      const uint64_t total = s.layer_picks(layer).by_source[source];
      // Of the sources only those that occur: a host has no copies.
      if (total == 0 && source >= 2) continue;
      count(engine, picks_,
            {{"layer", std::to_string(layer)},
             {"source", pick_source_name(static_cast<PickSource>(source))}},
            static_cast<double>(total));
    }
  }
}

void Metrics::add_residency(EngineMetrics& engine, const Statistics& s, const RingReader& reader) {
  for (int i = 0; i < kTransferCauses; ++i) {
    const auto cause = static_cast<TransferCause>(i);
    count(engine, read_bytes_, {{"cause", transfer_cause_name(cause)}},
          static_cast<double>(s.reads(cause).bytes));
    if (s.copies(cause).count == 0) continue;
    count(engine, copied_bytes_, {{"cause", transfer_cause_name(cause)}},
          static_cast<double>(s.copies(cause).bytes));
  }
  count(engine, admissions_, {}, static_cast<double>(s.admissions()));
  count(engine, evictions_, {}, static_cast<double>(s.evictions()));
  count(engine, admissions_hit_, {}, static_cast<double>(s.admissions_hit()));
  count(engine, evictions_unhit_, {}, static_cast<double>(s.evictions_unhit()));
  add_bytes(engine, "ram", reader.resident_bytes(), reader.budget_bytes());
  for (int i = 0; i < kGuardLanes; ++i) {
    const Statistics::Guard& guard = s.guard(static_cast<GuardLane>(i));
    if (!guard.is_known) continue;
    of_engine(engine, guard_on_, {{"lane", guard_lane_name(static_cast<GuardLane>(i))}})
        .Increment(guard.is_on ? 1 : 0);
  }
}

void Metrics::add_bytes(const EngineMetrics& engine, const char* tier, int64_t resident,
                        int64_t budget) {
  of_engine(engine, resident_, {{"tier", tier}}).Increment(static_cast<double>(resident));
  of_engine(engine, budget_, {{"tier", tier}}).Increment(static_cast<double>(budget));
}

void Metrics::add_card(EngineMetrics& engine, const Statistics::Card& card) {
  if (!card.is_known) return;
  add_bytes(engine, "card", card.resident_bytes, card.slot_bytes);
  count(engine, card_picks_, {{"result", "hit"}}, static_cast<double>(card.picks.hits()));
  count(engine, card_picks_, {{"result", "miss"}}, static_cast<double>(card.picks.misses()));
}

void Metrics::add(EngineMetrics& engine, const Statistics& s, const RingReader& reader) {
  constexpr double kSecondsPerNs = 1e-9;
  engines_.Increment();
  count(engine, tokens_, {}, static_cast<double>(s.time().tokens));
  count(engine, prompt_tokens_, {}, static_cast<double>(s.time().prompt_rows));
  add_picks(engine, s);
  const TimeCounts& time = s.time();
  for (const auto& [part, ns] : {std::pair{"compute", time.compute_ns},
                                 {"reads", time.read_wait_ns},
                                 {"card", time.card_wait_ns},
                                 {"other", time.other_ns}}) {
    count(engine, token_time_, {{"part", part}}, static_cast<double>(ns) * kSecondsPerNs);
  }
  for (const char* cause : {"reads", "card", "compute", "other"}) {
    count(engine, slow_, {{"cause", cause}}, static_cast<double>(engine.slow_[cause]));
  }
  add_residency(engine, s, reader);
  add_card(engine, s.card());
  count(engine, predictions_, {{"result", "right"}}, static_cast<double>(s.predicted_right()));
  count(engine, predictions_, {{"result", "wrong"}},
        static_cast<double>(s.predicted() - s.predicted_right()));
  count(engine, errors_, {}, static_cast<double>(s.errors()));
  count(engine, records_lost_, {}, static_cast<double>(reader.lost()));
  count(engine, records_invalid_, {}, static_cast<double>(reader.invalid()));
  observe(engine, latency_, s.token_ns(), kSecondsPerNs, 16, 20);       // 66 us to 34 s
  observe(engine, read_duration_, s.read_ns(), kSecondsPerNs, 13, 20);  // 8 us to 4 s
  observe(engine, reuse_, s.reuse_distance(), 1, 0, 12);                // 0 to 2047
}

std::string Metrics::text() const {
  return prometheus::TextSerializer().Serialize(registry_.Collect());
}

}  // namespace hotset
