// What a policy has learned of a model's experts, in a file of its own: the next start knows which
// experts to load first and to keep. Scores decide what is quick and never what is answered, so a
// file that is not sound is only a cold start.
//
//   head 96 bytes, then scores as float32 [layers][experts]; little-endian
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace hotset {

struct ScoreHead {  // as it lies in the file
  std::array<char, 8> magic = {'h', 'o', 't', 's', 'e', 't', 'E', '1'};
  uint32_t layers = 0, experts = 0;
  uint64_t fingerprint = 0;         // of the model's files (runtime/model/sidecar.h)
  std::array<char, 64> model = {};  // its name, for people; ends with a zero
  uint64_t checksum = 0;            // of all before it, then the scores

  std::string model_name() const;
  bool is_of(const ScoreHead& other) const {
    return layers == other.layers && experts == other.experts && fingerprint == other.fingerprint;
  }
};

// The head of `scores` (finite, none negative) of this model.
ScoreHead score_head(uint64_t fingerprint, const std::string& model, int32_t layers,
                     int32_t experts);

// Whoever reads the path while this runs, or after it was killed, finds the file of before or this
// one. Throws Error naming the path.
void write_scores(const std::string& path, ScoreHead head, std::span<const float> scores);

struct SavedScores {
  ScoreHead head;
  std::vector<float> scores;
};
// Throws Error naming the path and what is not sound.
SavedScores read_scores(const std::string& path);

}  // namespace hotset
