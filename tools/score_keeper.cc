#include "tools/score_keeper.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>

#include "kernels/check.h"
#include "tools/cache_folder.h"
#include "tools/config.h"

namespace hotset {
namespace {

namespace fs = std::filesystem;

constexpr size_t kNameMost = 64;

bool is_name(const std::string& text) {
  return !text.empty() && text.size() <= kNameMost &&
         std::all_of(text.begin(), text.end(), [](char c) {
           return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                  c == '-' || c == '_';
         });
}

}  // namespace

std::optional<std::string> scores_path(uint64_t fingerprint,
                                       const std::optional<std::string>& workload) {
  if (workload && !is_name(*workload)) {
    throw ConfigError(
        fmt::format("scores.workload: found \"{}\", expected up to {} letters, digits, - and _",
                    *workload, kNameMost));
  }
  const auto folder = cache_folder();
  if (!folder) return {};
  return fmt::format("{}/scores/{:016x}{}{}.scores", *folder, fingerprint, workload ? "." : "",
                     workload.value_or(""));
}

ScoreKeeper::ScoreKeeper(std::string path, const ModelDescription& description,
                         uint64_t fingerprint)
    : path_(std::move(path)),
      head_(score_head(fingerprint, description.config.name,
                       static_cast<int32_t>(description.config.num_hidden_layers),
                       static_cast<int32_t>(description.config.num_experts))) {}

std::vector<float> ScoreKeeper::restore() const {
  std::error_code error;
  if (!fs::exists(path_, error)) return {};
  try {
    SavedScores saved = read_scores(path_);
    if (saved.head.is_of(head_)) return std::move(saved.scores);
    fmt::print(stderr, "hotset: {}: scores of another model; starting without\n", path_);
  } catch (const Error& refusal) {
    fmt::print(stderr,
               "hotset: {}; starting without these scores, the end of this run saves new ones\n",
               refusal.what());
  }
  return {};
}

void ScoreKeeper::save(const Engine& engine) {
  try {
    std::error_code error;
    fs::create_directories(fs::path(path_).parent_path(), error);
    if (error) throw Error(fmt::format("{}: {}", path_, error.message()));
    std::vector<float> scores(size_t{head_.layers} * head_.experts);
    engine.cache().save_scores(scores);
    write_scores(path_, head_, scores);
    has_failed_ = false;
  } catch (const Error& failure) {
    if (!has_failed_) {
      fmt::print(stderr, "hotset: {}; the scores of this run are not saved\n", failure.what());
    }
    has_failed_ = true;
  }
}

}  // namespace hotset
