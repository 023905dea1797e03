// XXH3 with 64 bits: against accidents (a bad disk, a file cut short), not against an adversary.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

namespace hotset {

class Checksum {
 public:
  Checksum();
  Checksum& add(std::span<const std::byte> bytes);
  Checksum& add(std::string_view text);  // with its length
  Checksum& add(uint64_t value);
  uint64_t value() const;

 private:
  alignas(64) std::byte
      state_[576];  // XXH3_state_t: no allocation, and no macros for those who include this
};

}  // namespace hotset
