// A queue of work on a card, in order. By value; CardRuntime makes and owns what it names.
#pragma once

namespace hotset {

struct CardStream {
  void* handle = nullptr;  // of the runtime that made it
};

}  // namespace hotset
