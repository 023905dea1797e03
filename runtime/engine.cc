#include "runtime/engine.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <mutex>

#include "kernels/check.h"
#include "runtime/engine_state.h"

namespace hotset {

namespace {

constexpr int64_t kDefaultContext = 8192;
constexpr int64_t kLogitRowsMax = 512;

// Reads that may be under way or wait to be packed: a step's misses of a layer and the guesses for
// the next, and enough for a prompt's stream; bounded in bytes where experts are large.
CacheOptions cache_options(const ModelConfig& c, const EngineOptions& o, int64_t landing_bytes,
                           Recorder& recorder) {
  constexpr int64_t kLandingBytesMax = 64 << 20;
  const int64_t enough = std::max<int64_t>(3 * c.num_experts_per_tok, 16);
  const int64_t least = o.io_threads + 1;
  return {.floor = static_cast<int32_t>(c.num_experts_per_tok),
          .reading_threads = o.io_threads,
          .reads = static_cast<int32_t>(
              std::max(least, std::min(enough, kLandingBytesMax / landing_bytes))),
          .recorder = &recorder};
}

int64_t context_of(const ModelConfig& c, int64_t asked) {
  if (asked == 0) return std::min(c.max_position_embeddings, kDefaultContext);
  if (asked > c.max_position_embeddings) {
    throw Error(
        fmt::format("a context of {} positions was asked for, the model was made for at most {}",
                    asked, c.max_position_embeddings));
  }
  return asked;
}

bool has_delta_net(const ModelDescription& d) {
  return std::any_of(d.layers.begin(), d.layers.end(),
                     [](const LayerTensors& l) { return l.is_delta_net; });
}

}  // namespace

Engine::State::State(ModelDescription d, const EngineOptions& o, Weights w,
                     std::unique_ptr<Sidecar> packed, std::unique_ptr<Ring> ring)
    : description(std::move(d)),
      context(context_of(description.config, o.context)),
      pool(o.threads, o.pinning),
      kernels(kernel_table_named(o.isa.c_str())),
      weights(std::move(w)),
      sidecar(std::move(packed)),
      recorder(std::move(ring)),
      // Fillers load. Beside a sidecar it only stands in for what is damaged.
      file_source(description, sidecar ? 0 : pool.size(), o.io_threads, o.reads),
      sidecar_source(sidecar ? std::make_unique<ExpertSidecarSource>(*sidecar, file_source, o.reads)
                             : nullptr),
      source(sidecar ? static_cast<ExpertSource&>(*sidecar_source) : file_source),
      cache(source, plan_experts(o.expert_bytes), pool, policy_factory(o.policy),
            cache_options(description.config, o, source.landing_bytes(), recorder)),
      chunk(o.chunk),
      rows_max(rows_with(o.card != nullptr)),
      card(o.card),
      sessions(o.sessions),
      kv_f16(o.kv_type == KvType::kF16),
      place(make_place(o)),
      before_leaving_card(o.before_leaving_card),
      prefetch(o.prefetch),
      on_notice(o.on_notice),
      predictor(o.predictor) {
  plan_memory(o.card_room);
  reserve_rows();
}

// A resident model takes a prompt in chunks; else the whole prompt goes through layer by layer, so
// that each expert is read once a prompt (docs/architecture.md, Tokens). Beside a card a prompt
// goes in chunks, too: its misses pass through pinned memory.
int64_t Engine::State::rows_with(bool is_on_card) const {
  return cache.plan().all_resident() || is_on_card ? std::min<int64_t>(chunk, context) : context;
}

void Engine::State::reserve_rows() {
  tokens.reserve(rows_max);
  logit_rows.reserve(rows_max);
  runs.reserve(rows_max);
  fed.reserve(rows_max);
}

StepPlace::StepPlace(std::unique_ptr<Device> on, Recorder& recorder, const ModelConfig& config,
                     int64_t rows_max)
    : device(std::move(on)),
      forward(*device, recorder, config, device->weights(), rows_max,
              std::min(rows_max, kLogitRowsMax)),
      router_predictor(*device, config, device->weights()) {}

StepPlace::StepPlace(std::unique_ptr<HostExperts> of_card, std::unique_ptr<CardDevice> on,
                     Recorder& recorder, const ModelConfig& config, int64_t rows_max)
    : misses(std::move(of_card)),
      card(on.get()),
      device(std::move(on)),
      forward(*device, recorder, config, device->weights(), rows_max,
              std::min(rows_max, kLogitRowsMax)),
      router_predictor(*device, config, device->weights()) {}

std::shared_ptr<StepPlace> Engine::State::make_host_place(int64_t rows, int64_t cache_tokens) {
  auto device = std::make_unique<HostDevice>(
      description.config, weights, HostOptions{sessions, context, kv_f16, rows, cache_tokens},
      kernels, pool, cache, file_source.shapes());
  return std::make_shared<StepPlace>(std::move(device), recorder, description.config, rows);
}

std::shared_ptr<StepPlace> Engine::State::make_place(const EngineOptions& o) {
  const ModelConfig& config = description.config;
  if (!card) return make_host_place(rows_max, 0);
  auto misses =
      std::make_unique<HostExperts>(config, kernels, pool, cache, file_source.shapes(), rows_max);
  CardOptions options;
  options.sequences = o.sessions;
  options.positions = context;
  options.kv_f16 = kv_f16;
  options.room = o.card_room;
  options.experts.slots = plan_slots(source, 0, 0);
  options.experts.policy = policy_factory(o.policy);
  options.experts.tier = o.card_tier;
  options.experts.prompts = o.card_prompts;
  if (card->is_emulated()) {  // whose times say nothing of a card's
    options.experts.tier.lambda = o.card_tier.lambda.value_or(AdmissionPrice::kUnmeasured);
    options.experts.prompts.break_even =
        o.card_prompts.break_even.value_or(AdmissionPrice::kUnmeasured);
  }
  options.experts.rows_max = rows_max;
  auto device = std::make_unique<CardDevice>(
      config, weights, *card, card->is_emulated() ? emulated_kernels() : *cuda_kernels(), *misses,
      cache, recorder, options);
  return std::make_shared<StepPlace>(std::move(misses), std::move(device), recorder, config,
                                     rows_max);
}

MemoryPlan Engine::State::plan_of_host(const DeviceMemory& has) const {
  MemoryPlan of_host;
  of_host.dense = weights.image_bytes;
  of_host.embedding = description.embedding.bytes();
  of_host.experts = cache.plan();
  of_host.kv = has.kv;
  of_host.recurrent = has.recurrent;
  of_host.workspace = has.workspace;
  of_host.landing = cache.landing_bytes();
  of_host.ring = recorder.ring_bytes();
  return of_host;
}

void Engine::State::plan_memory(const CardRoom& room) {
  const DeviceMemory has = place->device->memory();
  plan = plan_of_host(has);
  if (!card) return;
  plan.dense = plan.kv = plan.recurrent = 0;
  plan.workspace = place->misses->workspace_bytes();
  plan.pinned = has.pinned;
  const int64_t slot_bytes = place->card->tier().plan().slot_bytes_total;
  plan.card = {.dense = weights.image_bytes,
               .recurrent = has.recurrent,
               .workspace = has.workspace,
               .prompts = place->card->ring_bytes(),
               .slot_bytes = slot_bytes,
               .kv = has.kv,
               .slow_bytes = place->card->slow_bytes(),
               .shared = std::min(room.with_kv_bytes, slot_bytes + has.kv)};
}

void Engine::State::check_card() const {
  if (card_loss.empty()) return;
  throw CardError(
      fmt::format("the card was lost in an earlier step ({}); start again, or go on without "
                  "it: --device cpu",
                  card_loss),
      true);
}

// A caller that breaks the contract of BatchRow is our bug; a token that the model does not have
// may come from a user's file.
void Engine::State::check_rows(std::span<const BatchRow> rows) const {
  HOTSET_CHECK(!rows.empty() && std::ssize(rows) <= rows_max,
               "a step takes 1 to rows_per_step rows");
  for (const BatchRow& row : rows) {
    HOTSET_CHECK(row.position < context, "a step beyond the session's context");
    if (row.token < 0 || row.token >= description.config.vocab_size) {
      throw Error(fmt::format("token id {} is not in the model's vocabulary of {}", row.token,
                              description.config.vocab_size));
    }
  }
}

void Engine::State::plan_runs(std::span<const BatchRow> rows) {
  tokens.clear();
  logit_rows.clear();
  runs.clear();
  const Session* current = nullptr;
  for (size_t i = 0; i < rows.size(); ++i) {
    const BatchRow& row = rows[i];
    tokens.push_back(row.token);
    if (row.wants_logits) logit_rows.push_back(static_cast<int32_t>(i));
    if (row.session != current) {
      current = row.session;
      HOTSET_CHECK(row.position == row.session->position(),
                   "a run must follow on from its session");
      runs.push_back({&row.session->state_, row.position, static_cast<int64_t>(i), 0});
    }
    RowRun& run = runs.back();
    HOTSET_CHECK(row.position == run.position + run.rows, "a session's rows must be consecutive");
    ++run.rows;
  }
}

// The answer has not suffered: who is in a slot stays there, all others are misses.
void Engine::State::tell_failure() {
  const std::string failure = place->card->take_failure();
  if (failure.empty()) return;
  recorder.error(failure.c_str());
  if (on_notice) on_notice(failure);
}

// Steps that decode are what the guard compares: prompts are of any length, and guess nothing.
StepOutput Engine::State::run(const Batch& batch, StepObserver* observer) {
  using Clock = std::chrono::steady_clock;
  const bool is_guarded = prefetch == Prefetch::kAuto && !cache.has_all_slots() && !is_on_card() &&
                          batch.tokens.size() == batch.runs.size();
  const auto start = Clock::now();
  ExpertPredictor* const guesses = predictor != nullptr ? predictor : &place->router_predictor;
  const StepOutput out = place->forward.run(batch, is_prefetching() ? guesses : nullptr, observer);
  if (is_on_card()) tell_failure();
  if (!is_guarded) return out;
  const std::chrono::duration<double> seconds = Clock::now() - start;
  if (!guard.add(seconds.count())) return out;
  recorder.guard(GuardLane::kPrefetch, guard.has_decided_on(),
                 1e3 * (guard.seconds_off() - guard.seconds_on()));
  if (on_notice) {
    on_notice(fmt::format(
        "prefetch is {} from here on: a token takes {:.1f} ms with it and {:.1f} ms without",
        guard.has_decided_on() ? "on" : "off", 1e3 * guard.seconds_on(),
        1e3 * guard.seconds_off()));
  }
  return out;
}

StepOutput Engine::State::step(std::span<const BatchRow> rows, std::span<const uint8_t> greedy_ids,
                               StepObserver* observer) {
  check_card();
  check_rows(rows);
  plan_runs(rows);
  auto record = recorder.step(rows[0].position, std::ssize(rows));
  watched.own = observer;
  StepOutput out;
  try {
    for (const BatchRow& row : rows) {
      place->device->sequences().resize(row.session->state_, row.position + 1);
    }
    out = run({tokens, runs, logit_rows, greedy_ids}, watched.watcher ? &watched : observer);
  } catch (const CardError& error) {
    if (error.is_lost()) card_loss = error.what();
    recorder.error(error.what());
    throw;
  } catch (const Error& error) {
    recorder.error(error.what());
    throw;
  }
  for (const BatchRow& row : rows) row.session->tokens_.push_back(row.token);
  record.done();
  return out;
}

Engine::Engine(ModelDescription description, const EngineOptions& options, const Progress& progress,
               std::unique_ptr<Sidecar> sidecar, std::unique_ptr<Ring> ring) {
  Weights weights = load_weights(description, sidecar.get(), [&](int64_t done, int64_t all) {
    progress(done, all, "dense weights");
  });
  state_ = std::make_unique<State>(std::move(description), options, std::move(weights),
                                   std::move(sidecar), std::move(ring));
  if (!options.expert_scores.empty()) {
    state_->cache.restore_scores(options.expert_scores);
    if (state_->place->card) state_->place->card->tier().restore_scores(options.expert_scores);
  }
  if (state_->cache.plan().all_resident() || !options.expert_scores.empty()) {
    state_->start_filling();
  }
}

Engine::~Engine() = default;

MemoryPlan Engine::plan(const ModelDescription& description, const EngineOptions& options) {
  // Of the host's memory. What a card takes away from it is small beside the experts.
  EngineOptions host = options;
  host.card = nullptr;
  return State(description, host, plan_weights(description), nullptr, nullptr).plan;
}

void Engine::wait_until_resident(const Progress& progress) {
  std::shared_ptr<BackgroundFill> fill;
  {
    const std::lock_guard lock(state_->fills_mutex);
    if (!state_->fills.empty()) fill = state_->fills.back();
  }
  if (fill == nullptr) return;
  fill->wait([&](int64_t done, int64_t all) { progress(done, all, "experts"); });
}

const ModelDescription& Engine::description() const {
  return state_->description;
}
const MemoryPlan& Engine::memory_plan() const {
  return state_->has_left_card ? state_->plan_without_card : state_->plan;
}
const char* Engine::isa() const {
  return state_->kernels.name;
}
CardRuntime* Engine::card() const {
  return state_->is_on_card() ? state_->card.get() : nullptr;
}
std::shared_ptr<const CardTier> Engine::card_tier() const {
  const std::shared_ptr<CardDevice> device = state_->card_device();
  return device ? std::shared_ptr<const CardTier>(device, &device->tier()) : nullptr;
}
PromptStats Engine::prompt_stats() const {
  const std::shared_ptr<CardDevice> device = state_->card_device();
  return device ? device->prompt_stats() : PromptStats();
}
int Engine::threads() const {
  return state_->pool.size();
}
int64_t Engine::context() const {
  return state_->context;
}
int64_t Engine::rows_per_step() const {
  return state_->rows_max;
}
void Engine::watch(StepObserver* watcher) {
  state_->watched.watcher = watcher;
}
void Engine::force_routing(ForcedRouting forced) {
  state_->forced = std::move(forced);
  state_->place->forward.moe().force_routing(state_->forced);
}
CacheStats Engine::cache_stats() const {
  return state_->cache.stats();
}
const ExpertCache& Engine::cache() const {
  return state_->cache;
}

const File& Engine::expert_file() const {
  if (state_->sidecar) return state_->sidecar->file();
  return **std::max_element(description().files.begin(), description().files.end(),
                            [](const File* a, const File* b) { return a->size() < b->size(); });
}

bool Engine::is_prefetching() const {
  return state_->is_prefetching();
}

void Engine::resize_experts(int64_t budget_bytes) {
  const int64_t before = state_->cache.plan().slot_bytes_total;
  SlotPlan plan = plan_experts(budget_bytes);
  const bool grows = plan.slot_bytes_total > before;
  state_->cache.resize(std::move(plan));
  if (grows) state_->start_filling();
}

void Engine::replace_policy(const PolicyOptions& policy) {
  state_->cache.replace_policy(state_->policy_factory(policy));
  if (const auto device = state_->card_device()) {
    device->tier().replace_policy(state_->policy_factory(policy));
  }
}

void Engine::set_card_room(const CardRoom& room) {
  if (const auto device = state_->card_device()) device->set_room(room);
}

int64_t Engine::card_shared_bytes() const {
  const std::shared_ptr<CardDevice> device = state_->card_device();
  return device ? device->shared_bytes() : 0;
}

int64_t Engine::card_ring_bytes() const {
  const std::shared_ptr<CardDevice> device = state_->card_device();
  return device ? device->ring_bytes() : 0;
}

SlotPlan Engine::plan_experts(int64_t budget_bytes) const {
  return state_->plan_experts(budget_bytes);
}

Session Engine::open_session() {
  state_->check_card();
  const std::shared_ptr<StepPlace>& place = state_->place;
  return Session(std::shared_ptr<SequencePool>(place, &place->device->sequences()),
                 has_delta_net(state_->description), state_->context);
}

std::span<const float> Engine::step(std::span<const BatchRow> rows, StepObserver* observer) {
  const Rows logits = state_->step(rows, {}, observer).logits;
  return {logits.data, static_cast<size_t>(logits.rows * logits.width)};
}

std::span<const int32_t> Engine::step_greedy(std::span<const BatchRow> rows,
                                             std::span<const uint8_t> allowed) {
  return state_->step(rows, allowed, nullptr).chosen;
}

int64_t Engine::bytes_per_token() const {
  int64_t bytes = state_->weights.packed_bytes;
  for (const ExpertShape& shape : state_->file_source.shapes()) {
    bytes += shape.bytes * config().num_experts_per_tok;
  }
  return bytes;
}

int64_t Engine::expert_bytes_per_token() const {
  int64_t bytes = bytes_per_token() - state_->weights.packed_bytes;
  for (const LayerTensors& layer : state_->description.layers) {
    if (!layer.shared_expert) continue;
    const ExpertSourceTensors& shared = *layer.shared_expert;
    bytes += shared.gate.bytes() + shared.up.bytes() + shared.down.bytes();
  }
  return bytes;
}

std::span<const float> feed(Engine& engine, Session& session, std::span<const int32_t> tokens,
                            int64_t chunk, const std::function<void(std::span<const float>)>& all,
                            StepObserver* observer) {
  // Steps end at multiples of 64 positions, where the delta net's chunks do: then the bits do not
  // depend on the step's size.
  int64_t most = chunk > 0 ? std::min(chunk, engine.rows_per_step()) : engine.rows_per_step();
  if (all) most = std::min(most, kLogitRowsMax);
  std::vector<BatchRow>& rows = engine.state_->fed;
  std::span<const float> logits;
  for (size_t next = 0; next < tokens.size();) {
    int64_t count = std::min<int64_t>(most, std::ssize(tokens) - static_cast<int64_t>(next));
    const int64_t past = (session.position() + count) % kDeltaChunk;
    if (next + count < tokens.size() && past < count) count -= most >= kDeltaChunk ? past : 0;
    rows.clear();
    for (int64_t i = 0; i < count; ++i) {
      const bool last = next + i + 1 == tokens.size();
      rows.push_back({&session, tokens[next + i], session.position() + i, all || last});
    }
    logits = engine.step(rows, observer);
    if (all) all(logits);
    next += count;
  }
  return logits;
}

}  // namespace hotset
