// Any bytes as a file of saved scores: read, or refused by an Error. Sizes and checksum are made
// right where that is possible: an input is to get past them. No seed is needed.
#include <cstring>
#include <vector>

#include "kernels/check.h"
#include "runtime/model/score_file.h"
#include "runtime/weights/checksum.h"
#include "tests/fuzz/fuzz_input.h"

namespace {

void make_plausible(std::vector<uint8_t>& bytes) {
  using hotset::ScoreHead;
  if (bytes.size() < sizeof(ScoreHead) || bytes[0] % 4 == 0) return;
  ScoreHead head;
  const ScoreHead sound;
  std::memcpy(&head, bytes.data(), sizeof(head));
  head.magic = sound.magic;
  if (bytes[0] % 4 > 1) {
    head.layers = 1;
    head.experts = static_cast<uint32_t>((bytes.size() - sizeof(head)) / sizeof(float));
    bytes.resize(sizeof(head) + head.experts * sizeof(float));
  }
  std::memcpy(bytes.data(), &head, sizeof(head));
  const auto all = std::as_bytes(std::span(bytes));
  head.checksum = hotset::Checksum()
                      .add(all.first(sizeof(head) - sizeof(head.checksum)))
                      .add(all.subspan(sizeof(head)))
                      .value();
  std::memcpy(bytes.data(), &head, sizeof(head));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::vector<uint8_t> bytes(data, data + size);
  make_plausible(bytes);
  const hotset::MemoryFile file(bytes.data(), bytes.size());
  try {
    const hotset::SavedScores saved = hotset::read_scores(file.path());
    HOTSET_CHECK(saved.scores.size() == size_t{saved.head.layers} * saved.head.experts,
                 "as many scores as the head says");
    saved.head.model_name();
  } catch (const hotset::Error&) {
  }
  return 0;
}
