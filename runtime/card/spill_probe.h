// Whether memory that a card granted is its own. Some systems (Windows' driver model, cards that
// are shared) grant more than a card has, and keep what is too much in the host's memory without an
// error: kernels then read it through the link, and tokens take twice as long. Only time shows it:
// the card copies pieces of the memory in question within themselves, and one that lies behind the
// link takes several times as long as the quickest. (Where all do, none is slower than the others:
// what the card says is free is the only sign then.) Not measured on a card.
#pragma once

#include <cstdint>

#include "kernels/cuda/card_runtime.h"

namespace hotset {

// Bytes of it that are slow, from as many samples as take some hundredths of a second. Overwrites
// the memory, and waits for the stream.
int64_t slow_bytes_of(CardRuntime& card, CardStream stream, const CardReservation& memory);

}  // namespace hotset
