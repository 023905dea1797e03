#include "runtime/model/score_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>

#include "kernels/check.h"
#include "runtime/weights/checksum.h"
#include "runtime/weights/file.h"
#include "runtime/weights/messages.h"
#include "runtime/weights/output_file.h"

namespace hotset {
namespace {

static_assert(std::endian::native == std::endian::little && sizeof(ScoreHead) == 96);

uint64_t checksum_of(const ScoreHead& head, std::span<const float> scores) {
  return Checksum()
      .add(std::as_bytes(std::span(&head, 1)).first(sizeof(head) - sizeof(head.checksum)))
      .add(std::as_bytes(scores))
      .value();
}

}  // namespace

std::string ScoreHead::model_name() const {
  return printable({model.data(), static_cast<size_t>(std::find(model.begin(), model.end(), '\0') -
                                                      model.begin())});
}

ScoreHead score_head(uint64_t fingerprint, const std::string& model, int32_t layers,
                     int32_t experts) {
  ScoreHead head;
  head.layers = static_cast<uint32_t>(layers);
  head.experts = static_cast<uint32_t>(experts);
  head.fingerprint = fingerprint;
  model.copy(head.model.data(), head.model.size() - 1);
  return head;
}

void write_scores(const std::string& path, ScoreHead head, std::span<const float> scores) {
  HOTSET_CHECK(scores.size() == uint64_t{head.layers} * head.experts, "a score for each expert");
  head.checksum = checksum_of(head, scores);
  OutputFile file(path);
  file.write(0, std::as_bytes(std::span(&head, 1)));
  file.write(sizeof(head), std::as_bytes(scores));
  file.commit();
}

SavedScores read_scores(const std::string& path) {
  const File file(path);
  SavedScores saved;
  ScoreHead& head = saved.head;
  const ScoreHead expected;
  if (file.size() < sizeof(head)) {
    throw Error(fmt::format("{}: found {} bytes, expected scores of at least {}", path, file.size(),
                            sizeof(head)));
  }
  file.read(0, std::as_writable_bytes(std::span(&head, 1)));
  if (head.magic != expected.magic) {
    throw Error(path + ": does not hold scores of this version");
  }
  // No allocation is larger than the file is.
  const uint64_t count = uint64_t{head.layers} * head.experts;
  if ((file.size() - sizeof(head)) % sizeof(float) != 0 ||
      count != (file.size() - sizeof(head)) / sizeof(float)) {
    throw Error(fmt::format("{}: found {} bytes, expected scores of {} layers of {} experts", path,
                            file.size(), head.layers, head.experts));
  }
  saved.scores.resize(count);
  file.read(sizeof(head), std::as_writable_bytes(std::span(saved.scores)));
  if (const uint64_t found = checksum_of(head, saved.scores); found != head.checksum) {
    throw Error(
        fmt::format("{}: found checksum {:016x}, expected {:016x}", path, found, head.checksum));
  }
  const bool sound = std::all_of(saved.scores.begin(), saved.scores.end(),
                                 [](float s) { return std::isfinite(s) && s >= 0; });
  if (!sound) throw Error(path + ": holds a score that is negative or not finite");
  return saved;
}

}  // namespace hotset
