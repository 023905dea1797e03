#include "tools/chat.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>
#include <iostream>

#include "tools/interrupt.h"

namespace hotset {

void write_text(std::string_view text) {
  std::fwrite(text.data(), 1, text.size(), stdout);
  std::fflush(stdout);
}

std::string describe_generation(const Generation& generation, const Engine& engine,
                                double load_ms) {
  const CacheStats& cache = engine.cache_stats();
  return fmt::format(
      "load {:.0f} ms; prompt {} tokens, {:.1f} tokens/s; generated {} tokens, {:.1f} tokens/s; "
      "experts: {} hits, {} misses, hit rate {:.1f} %",
      load_ms, generation.prompt_tokens, generation.prefill_tps(), generation.ids.size(),
      generation.decode_tps(), cache.hits, cache.misses, 100 * cache.hit_rate());
}

Chat::Chat(LoadedModel& model, const ChatTemplate& format, std::optional<std::string> system,
           const GenerateOptions& options, Sampler& sampler)
    : model_(model),
      format_(format),
      system_(std::move(system)),
      options_(options),
      sampler_(sampler),
      session_(model.engine->open_session()) {
  reset();
}

void Chat::reset() {
  session_.truncate(0);
  sampler_.forget();
  messages_.clear();
  fed_messages_ = 0;
  unfed_.clear();
  if (system_) messages_.push_back({"system", *system_});
}

// The session is empty: the next turn feeds the history again, without the last question.
void Chat::forget_turn() {
  messages_.pop_back();
  fed_messages_ = 0;
  unfed_.clear();
}

void Chat::run() {
  fmt::print(stderr, "A conversation; /help says what can be done. Ctrl-C stops an answer.\n");
  for (;;) {
    throw_if_interrupted();
    fmt::print(stderr, "> ");
    wait_for_terminal(STDIN_FILENO);
    std::string line;
    if (interrupted()) std::fputs("\n", stderr);
    throw_if_interrupted();
    const bool has_line = static_cast<bool>(std::getline(std::cin, line));
    if (!has_line) std::fputs("\n", stderr);  // the terminal may be gone: no error then
    throw_if_interrupted();
    if (!has_line) return;
    if (line.empty() || obey(line)) continue;
    try {
      answer(line);
    } catch (const Error& error) {
      fmt::print(stderr, "hotset: {}\n", error.what());
    }
  }
}

bool Chat::obey(const std::string& command) {
  if (!command.starts_with('/')) return false;
  if (command == "/reset") {
    reset();
    fmt::print(stderr, "The conversation begins anew.\n");
  } else if (command == "/stats") {
    fmt::print(stderr, "context: {} of {} positions\n", session_.position(),
               model_.engine->context());
    if (last_) {
      fmt::print(stderr, "{}\n", describe_generation(*last_, *model_.engine, model_.load_ms));
    }
  } else {
    fmt::print(stderr,
               "/reset  forget the conversation\n/stats  times and expert cache\n/help   this\n"
               "Ctrl-C stops an answer; a second one, or Ctrl-D, leaves.\n");
  }
  return true;
}

void Chat::answer(const std::string& text) {
  messages_.push_back({"user", text});
  std::vector<int32_t> prompt = unfed_;
  const std::vector<int32_t> turn = format_.encode(*model_.tokenizer, messages_, fed_messages_);
  prompt.insert(prompt.end(), turn.begin(), turn.end());
  try {
    last_ = generate(*model_.engine, session_, *model_.tokenizer, sampler_, prompt, options_,
                     {write_text, interrupted});
  } catch (const Error&) {
    session_.truncate(0);  // what a failed step left behind cannot be continued
    forget_turn();
    throw;
  }
  clear_interrupt();
  write_text("\n");
  if (session_.position() == 0) {  // stopped while the prompt went through
    forget_turn();
    return;
  }
  messages_.push_back({"assistant", last_->text});
  fed_messages_ = messages_.size();
  unfed_.assign(last_->ids.begin() + last_->decode_steps, last_->ids.end());
  if (last_->finish == FinishReason::kContext) {
    fmt::print(stderr, "hotset: the context of {} is full; /reset begins anew, --ctx raises it\n",
               model_.engine->context());
  }
}

}  // namespace hotset
