#include "runtime/weights/checksum.h"

#define XXH_STATIC_LINKING_ONLY  // the state's size
#include <xxhash.h>

#include <new>

namespace hotset {
namespace {

const XXH3_state_t* state_of(const std::byte* state) {
  return std::launder(reinterpret_cast<const XXH3_state_t*>(state));
}
XXH3_state_t* state_of(std::byte* state) {
  return std::launder(reinterpret_cast<XXH3_state_t*>(state));
}

}  // namespace

Checksum::Checksum() {
  static_assert(sizeof(state_) == sizeof(XXH3_state_t) && alignof(XXH3_state_t) <= 64);
  XXH3_64bits_reset(new (state_) XXH3_state_t);
}

Checksum& Checksum::add(std::span<const std::byte> bytes) {
  XXH3_64bits_update(state_of(state_), bytes.data(), bytes.size());
  return *this;
}

Checksum& Checksum::add(std::string_view text) {
  add(uint64_t{text.size()});
  return add(std::as_bytes(std::span(text)));
}

Checksum& Checksum::add(uint64_t value) {
  return add(std::as_bytes(std::span(&value, 1)));
}

uint64_t Checksum::value() const {
  return XXH3_64bits_digest(state_of(state_));
}

}  // namespace hotset
