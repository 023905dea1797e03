// What a decode that misses experts could reach at most: how fast the disk gives experts right now,
// measured in the same run, and the bytes that a token missed.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "cache/slot_plan.h"
#include "kernels/memory.h"
#include "runtime/weights/landing_file.h"
#include "tools/routing_player.h"
#include "tools/samples.h"

namespace hotset {

// Reads of an expert's size from all over the file that experts come from, past the page cache, by
// as many threads as read experts.
class DiskBandwidth {
 public:
  DiskBandwidth(const File& file, int threads, int64_t expert_bytes);
  double measure_gbps();

 private:
  LandingFile file_;
  const int threads_;
  const int64_t expert_bytes_, stride_;
  Memory landings_;
  uint64_t seed_ = 1;
};

// One repetition of decoding beside the disk of that moment.
struct DiskDecode {
  double tps = 0, disk_gbps = 0, miss_bytes_per_token = 0, waited_ms_per_token = 0;
  std::vector<int64_t> layer_bytes;  // missed, [tokens][layers]
  // Tokens a second if reading missed experts were all there is to do; infinite without misses.
  double disk_tps() const { return 1e9 * disk_gbps / miss_bytes_per_token; }
};

struct DiskBound {
  std::vector<DiskDecode> decodes;
  double resident_tps = 0;  // decoding where every pick is resident
  double layer_share = 0;   // of that time, what a layer takes from its router to its combination
  int64_t layers = 0;
  // What Belady's choice with bypass misses with the same slots in the second half of the trace
  // (the first fills them); 0: not known.
  double belady_bytes_per_token = 0;

  // A median over the repetitions of what `of` gives for each.
  template <class Of>
  double median(const Of& of) const {
    Samples samples;
    for (const DiskDecode& decode : decodes) samples.values.push_back(of(decode));
    return samples.at(.5);
  }
  // Without guesses: what a layer misses is read from its router on, so that no more is hidden than
  // what its shared expert and all of its routed ones, were they resident, take to compute.
  double unguessed_tps(const DiskDecode& decode) const;
  // Of the lesser of what the disk and computing alone allow.
  double reached() const;
  nlohmann::ordered_json json() const;
  std::string text() const;
};

double belady_bytes_per_token(const RoutingPlayer& player, const SlotPlan& plan);

}  // namespace hotset
