#include "tools/eval_recorder.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "tools/interrupt.h"

namespace hotset {
namespace {

double log_probability(std::span<const float> logits, int32_t id) {
  const double best = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float logit : logits) sum += std::exp(logit - best);
  return logits[id] - best - std::log(sum);
}

}  // namespace

int32_t best_id(std::span<const float> logits) {
  return static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

EvalRecorder::EvalRecorder(const ModelConfig& config, std::span<const int32_t> tokens,
                           const EvalFiles& files)
    : vocab_(config.vocab_size),
      hidden_(config.hidden_size),
      layers_(config.num_hidden_layers),
      k_(config.num_experts_per_tok),
      tokens_(tokens.begin(), tokens.end()),
      hidden_rows_(static_cast<size_t>(layers_ + 1)),
      routing_rows_(static_cast<size_t>(layers_)) {
  const int64_t count = std::ssize(tokens_);
  // Every layer of the architectures that are read is a MoE layer.
  const std::vector<int64_t> picks = {count, layers_, k_};
  if (!files.logits.empty()) logits_file_.emplace(files.logits, std::vector{count, vocab_});
  if (!files.routing.empty()) routing_file_.emplace(files.routing, picks);
  if (!files.weights.empty()) weights_file_.emplace(files.weights, picks);
  if (!files.hidden.empty()) {
    hidden_file_.emplace(files.hidden, std::vector{layers_ + 1, count, hidden_});
  }
}

void EvalRecorder::on_hidden(int32_t layer, const float* x, int64_t rows) {
  throw_if_interrupted();
  int64_t& done = hidden_rows_[static_cast<size_t>(layer + 1)];
  if (hidden_file_) {
    const int64_t first = ((layer + 1) * std::ssize(tokens_) + done) * hidden_;
    hidden_file_->write(first, {x, static_cast<size_t>(rows * hidden_)});
  }
  done += rows;
}

void EvalRecorder::on_routing(int32_t layer, const int32_t* experts, const float* weights,
                              int64_t rows) {
  int64_t& done = routing_rows_[static_cast<size_t>(layer)];
  const auto k = static_cast<size_t>(k_);
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t first = ((done + row) * layers_ + layer) * k_;
    if (routing_file_) routing_file_->write(first, {experts + row * k_, k});
    if (weights_file_) weights_file_->write(first, {weights + row * k_, k});
  }
  done += rows;
}

void EvalRecorder::on_logits(std::span<const float> logits) {
  throw_if_interrupted();
  const auto width = static_cast<size_t>(vocab_);
  if (logits_file_) logits_file_->write(logit_rows_ * vocab_, logits);
  for (size_t row = 0; row < logits.size() / width; ++row) {
    ++logit_rows_;  // the row predicts this token
    if (logit_rows_ == std::ssize(tokens_)) break;
    logprob_sum_ += log_probability(logits.subspan(row * width, width),
                                    tokens_[static_cast<size_t>(logit_rows_)]);
  }
  const auto last = logits.last(width);
  last_logits_.assign(last.begin(), last.end());
}

double EvalRecorder::mean_logprob() const {
  const int64_t predicted = std::ssize(tokens_) - 1;
  return predicted > 0 ? logprob_sum_ / static_cast<double>(predicted)
                       : std::numeric_limits<double>::quiet_NaN();
}

void EvalRecorder::commit() {
  if (logits_file_) logits_file_->commit();
  if (routing_file_) routing_file_->commit();
  if (weights_file_) weights_file_->commit();
  if (hidden_file_) hidden_file_->commit();
}

}  // namespace hotset
