// The rings of a folder, for who asks again and again: their names are read anew only where files
// have come or gone since, which costs the asker one look at the folder. Thread-compatible.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace hotset {

class RingFinder {
 public:
  explicit RingFinder(std::string folder) : folder_(std::move(folder)) {}

  void look();
  // As of then, in the order of their names. Empty where there is no folder, or it is not this
  // user's own.
  const std::vector<std::string>& rings() const { return rings_; }

 private:
  // What a folder is known by, and when it was last changed: by a file, its mode, or its owner.
  struct Stamp {
    uint64_t device = 0, file = 0;
    int64_t seconds = 0, ns = 0;
    bool operator==(const Stamp&) const = default;
  };

  const std::string folder_;
  Stamp stamp_;
  bool is_certain_ = false;  // whatever changes the folder changes the stamp, too
  std::vector<std::string> rings_;
};

}  // namespace hotset
