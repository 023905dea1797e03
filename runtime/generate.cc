#include "runtime/generate.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <type_traits>
#include <utility>

#include "kernels/check.h"

namespace hotset {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

double per_second(int64_t count, double seconds) {
  return seconds > 0 ? static_cast<double>(count) / seconds : 0;
}

bool contains(const std::vector<int32_t>& ids, int32_t id) {
  return std::find(ids.begin(), ids.end(), id) != ids.end();
}

// Ends a step that is under way: a long prompt over slow storage takes minutes.
class CancelObserver : public StepObserver {
 public:
  struct Cancelled {};
  explicit CancelObserver(const std::function<bool()>& cancelled) : cancelled_(cancelled) {}
  void on_hidden(int32_t, const float*, int64_t) override {
    if (cancelled_()) throw Cancelled{};
  }
  void on_routing(int32_t, const int32_t*, const float*, int64_t) override {}

 private:
  const std::function<bool()>& cancelled_;
};

void check_fits(const Engine& engine, const Session& session, int64_t prompt) {
  if (session.position() + prompt <= engine.context()) return;
  const std::string taken =
      session.position() > 0 ? fmt::format(" beside the {} taken", session.position()) : "";
  throw Error(fmt::format(
      "the prompt has {} tokens, which do not fit into a context of {}{}; shorten it, or raise "
      "--ctx (the model was made for {})",
      prompt, engine.context(), taken, engine.config().max_position_embeddings));
}

// Feeds a session. Where the card fails in a step the host goes on: what the session was fed before
// goes through it as a prompt, and then the step again.
class Feeder {
 public:
  Feeder(Engine& engine, Session& session, StepObserver& observer)
      : engine_(engine), session_(session), observer_(observer) {}

  std::span<const float> prompt(std::span<const int32_t> prompt, int64_t chunk) {
    const int64_t first = session_.position();
    return with_card_or_without([&] {
      const std::span<const int32_t> rest = prompt.subspan(session_.position() - first);
      return feed(engine_, session_, rest, chunk, {}, &observer_);
    });
  }
  // The token after `last`. A greedy choice is the device's.
  int32_t decode(Sampler& sampler, int32_t last) {
    return with_card_or_without([&] {
      const std::span<const uint8_t> greedy_ids = sampler.greedy_ids();
      if (greedy_ids.empty()) return sampler.sample(feed(engine_, session_, {&last, 1}));
      const BatchRow row{&session_, last, session_.position(), true};
      return engine_.step_greedy({&row, 1}, greedy_ids)[0];
    });
  }

 private:
  template <class Step>
  std::invoke_result_t<Step> with_card_or_without(const Step& step) {
    try {
      return step();
    } catch (const CardError& error) {
      if (!engine_.may_leave_card()) throw;
      engine_.leave_card(error.what());
    }
    const std::vector<int32_t> fed(session_.tokens().begin(), session_.tokens().end());
    session_ = engine_.open_session();  // what the card's side had in memory goes with the old one
    feed(engine_, session_, fed, 0, {}, &observer_);
    return step();
  }

  Engine& engine_;
  Session& session_;
  StepObserver& observer_;
};

// Bytes of tokens -> characters -> text that no stop string will take back.
class TextStream {
 public:
  TextStream(const GenerateOptions& options, const GenerateCallbacks& callbacks, std::string& text)
      : stops_(options.stop_strings), callbacks_(callbacks), text_(text) {}

  void push(std::string_view bytes) { emit(stops_.push(characters_.push(bytes))); }
  void finish() {
    emit(stops_.push(characters_.finish()));
    emit(stops_.finish());
  }
  bool stopped() const { return stops_.stopped(); }

 private:
  void emit(const std::string& piece) {
    if (piece.empty()) return;
    text_ += piece;
    if (callbacks_.on_text) callbacks_.on_text(piece);
  }

  Utf8Stream characters_;
  StopStrings stops_;
  const GenerateCallbacks& callbacks_;
  std::string& text_;
};

}  // namespace

const char* finish_reason_name(FinishReason reason) {
  switch (reason) {
    case FinishReason::kStop:
      return "stop";
    case FinishReason::kLength:
      return "length";
    case FinishReason::kContext:
      return "context";
    case FinishReason::kCancelled:
      return "cancelled";
  }
  HOTSET_CHECK(false, "a finish reason");
  return "";
}

StopStrings::StopStrings(std::vector<std::string> stops) : stops_(std::move(stops)) {
  std::erase(stops_, "");
  for (const std::string& stop : stops_) hold_back_ = std::max(hold_back_, stop.size() - 1);
}

std::string StopStrings::push(std::string_view text) {
  if (stopped_) return "";
  pending_ += text;
  size_t first = std::string::npos;
  for (const std::string& stop : stops_) first = std::min(first, pending_.find(stop));
  if (first != std::string::npos) {
    stopped_ = true;
    pending_.resize(first);
    return std::exchange(pending_, "");
  }
  size_t certain = pending_.size() - std::min(hold_back_, pending_.size());
  const auto is_continuation = [&](size_t i) { return (pending_[i] & 0xC0) == 0x80; };
  while (certain > 0 && certain < pending_.size() && is_continuation(certain)) --certain;
  std::string out = pending_.substr(0, certain);
  pending_.erase(0, certain);
  return out;
}

std::string StopStrings::finish() {
  return std::exchange(pending_, "");
}

double Generation::prefill_tps() const {
  return per_second(prompt_tokens, prefill_seconds);
}

double Generation::decode_tps() const {
  return per_second(decode_steps, decode_seconds);
}

Generation generate(Engine& engine, Session& session, const Tokenizer& tokenizer, Sampler& sampler,
                    std::span<const int32_t> prompt, const GenerateOptions& options,
                    const GenerateCallbacks& callbacks) {
  HOTSET_CHECK(!prompt.empty(), "a prompt has at least one token");
  check_fits(engine, session, std::ssize(prompt));
  const auto cancelled = [&] { return callbacks.cancelled && callbacks.cancelled(); };
  Generation out;
  out.prompt_tokens = std::ssize(prompt);
  out.ids.reserve(static_cast<size_t>(
      std::clamp<int64_t>(options.max_tokens, 0, engine.context() - session.position())));
  for (const int32_t token : prompt) sampler.accept(token);

  const auto start = Clock::now();
  const std::function<bool()> is_cancelled = cancelled;
  CancelObserver observer(is_cancelled);
  Feeder feeder(engine, session, observer);
  TextStream text(options, callbacks, out.text);
  try {
    const std::span<const float> logits = feeder.prompt(prompt, options.chunk);
    out.prefill_seconds = seconds_since(start);
    const auto decode_start = Clock::now();
    out.finish = FinishReason::kLength;
    while (std::ssize(out.ids) < options.max_tokens) {
      if (cancelled()) {
        out.finish = FinishReason::kCancelled;
        break;
      }
      int32_t token;
      if (out.ids.empty()) {
        token = sampler.sample(logits);
        out.ttft_ms = 1000 * seconds_since(start);
      } else if (session.position() == engine.context()) {
        out.finish = FinishReason::kContext;
        break;
      } else {
        token = feeder.decode(sampler, out.ids.back());
        ++out.decode_steps;
      }
      const bool is_stop = contains(options.stop_ids, token);
      if (!is_stop) {
        out.ids.push_back(token);
        sampler.accept(token);
        text.push(tokenizer.token_bytes(token));
      }
      if (is_stop || text.stopped()) {
        out.finish = FinishReason::kStop;
        break;
      }
    }
    out.decode_seconds = seconds_since(decode_start);
  } catch (const CancelObserver::Cancelled&) {
    session.truncate(0);
    out.finish = FinishReason::kCancelled;
  }
  text.finish();
  return out;
}

}  // namespace hotset
