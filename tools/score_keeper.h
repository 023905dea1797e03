// Keeps what a policy has learned of a model from one run to the next. Policy only: what a file of
// scores is, runtime/model/score_file.h says.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "runtime/engine.h"
#include "runtime/model/score_file.h"

namespace hotset {

// In the cache folder, by the model's fingerprint and the workload's name. Throws ConfigError for a
// name that is no part of a file's; nothing where there is no cache folder.
std::optional<std::string> scores_path(uint64_t fingerprint,
                                       const std::optional<std::string>& workload);

class ScoreKeeper {
 public:
  ScoreKeeper(std::string path, const ModelDescription& description, uint64_t fingerprint);

  // The scores of last time, [layer][expert]; empty where there are none. What is there and not
  // sound is said on stderr: then it is as if it were not there.
  std::vector<float> restore() const;
  // Saves those of now. A failure is said on stderr, once until it works again.
  void save(const Engine& engine);

 private:
  const std::string path_;
  const ScoreHead head_;
  bool has_failed_ = false;
};

}  // namespace hotset
