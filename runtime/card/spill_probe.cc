#include "runtime/card/spill_probe.h"

#include <algorithm>
#include <chrono>
#include <vector>

namespace hotset {

namespace {

// A piece is long beside a launch (some 40 us at 360 GB/s beside some 10), and there are enough of
// them to see a hundredth of the memory that is slow.
constexpr int64_t kPieceBytesMax = 8 << 20, kPiecesMax = 128, kPiecesMin = 16;
constexpr int64_t kAlignment = 256;
// The quickest of so many looks counts: others may use the card, or the host, meanwhile.
constexpr int kLooks = 3;
// By calculation: a copy within a card of 360 GB/s reads and writes 144 GB/s at 80 %, one through a
// link of 12 to 25 GB/s no more than that.
constexpr double kSlow = 3;

double seconds_of_copy(CardRuntime& card, CardStream stream, std::byte* piece, int64_t bytes) {
  const auto begin = std::chrono::steady_clock::now();
  card.copy(stream, piece + bytes / 2, piece, bytes / 2);
  card.synchronise(stream);
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

}  // namespace

int64_t slow_bytes_of(CardRuntime& card, CardStream stream, const CardReservation& memory) {
  const int64_t piece =
      std::min(kPieceBytesMax, memory.bytes() / kPiecesMin) / (2 * kAlignment) * (2 * kAlignment);
  if (piece == 0) return 0;
  const int64_t pieces = std::min(kPiecesMax, memory.bytes() / piece);
  // All of the memory between the first and the last, which is at its end.
  const double stride =
      static_cast<double>(memory.bytes() - piece) / static_cast<double>(kAlignment * (pieces - 1));
  card.synchronise(stream);
  std::vector<double> seconds(static_cast<size_t>(pieces));
  // Round by round, so that no cache of the card's holds a piece from the look before.
  for (int look = 0; look < kLooks; ++look) {
    for (int64_t i = 0; i < pieces; ++i) {
      const int64_t at = static_cast<int64_t>(static_cast<double>(i) * stride) * kAlignment;
      const double took = seconds_of_copy(card, stream, memory.data() + at, piece);
      double& least = seconds[static_cast<size_t>(i)];
      least = look == 0 ? took : std::min(least, took);
    }
  }
  const double quickest = *std::min_element(seconds.begin(), seconds.end());
  const auto slow = std::count_if(seconds.begin(), seconds.end(),
                                  [&](double took) { return took > kSlow * quickest; });
  return memory.bytes() / pieces * slow;
}

}  // namespace hotset
