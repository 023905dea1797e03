// What `hotset eval` keeps of the steps it watches: routing, weights and hidden states go to .npy
// files as they come, log-probabilities are added up.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "runtime/engine.h"
#include "tools/npy.h"

namespace hotset {

struct EvalFiles {  // "": not asked for
  std::string logits, routing, weights, hidden;
};

class EvalRecorder : public StepObserver {
 public:
  EvalRecorder(const ModelConfig& config, std::span<const int32_t> tokens, const EvalFiles& files);

  void on_hidden(int32_t layer, const float* x, int64_t rows) override;
  void on_routing(int32_t layer, const int32_t* experts, const float* weights,
                  int64_t rows) override;
  void on_logits(std::span<const float> logits);  // of the next rows

  // Puts the files in place.
  void commit();
  // Mean over the tokens but the first; not a number if there is only one.
  double mean_logprob() const;
  std::span<const float> last_logits() const { return last_logits_; }

 private:
  const int64_t vocab_, hidden_, layers_, k_;
  const std::vector<int32_t> tokens_;
  std::optional<NpyFile<float>> logits_file_, weights_file_, hidden_file_;
  std::optional<NpyFile<int32_t>> routing_file_;
  std::vector<int64_t> hidden_rows_, routing_rows_;  // of each layer, so far
  int64_t logit_rows_ = 0;
  double logprob_sum_ = 0;
  std::vector<float> last_logits_;
};

// The id of the largest logit; the lowest one of equals.
int32_t best_id(std::span<const float> logits);

}  // namespace hotset
