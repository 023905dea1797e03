#include "runtime/session.h"

#include <fmt/format.h>

#include <utility>

#include "kernels/check.h"
#include "runtime/sequence_pool.h"

namespace hotset {

Session::Session(SequencePool& sequences, bool has_recurrent_state)
    : sequences_(&sequences), has_recurrent_state_(has_recurrent_state), state_(sequences.open()) {}

Session::~Session() {
  if (sequences_ != nullptr) sequences_->close(state_);
}

Session::Session(Session&& other) noexcept
    : sequences_(std::exchange(other.sequences_, nullptr)),
      has_recurrent_state_(other.has_recurrent_state_),
      position_(std::exchange(other.position_, 0)),
      state_(std::move(other.state_)) {}

Session& Session::operator=(Session&& other) noexcept {
  std::swap(sequences_, other.sequences_);
  std::swap(has_recurrent_state_, other.has_recurrent_state_);
  std::swap(position_, other.position_);
  std::swap(state_, other.state_);
  return *this;
}

bool Session::can_truncate(int64_t position) const {
  if (position < 0 || position > position_) return false;
  return position == 0 || position == position_ || !has_recurrent_state_;
}

void Session::truncate(int64_t position) {
  if (!can_truncate(position)) {
    throw Error(
        fmt::format("a session at position {} cannot go back to {}: {}", position_, position,
                    has_recurrent_state_ ? "this model's recurrent state cannot be rewound; "
                                           "restore a snapshot taken there instead"
                                         : "it is not between 0 and the present"));
  }
  if (position == 0) sequences_->clear_recurrent(state_);
  sequences_->resize(state_, position);
  position_ = position;
}

Snapshot Session::snapshot() const {
  return sequences_->save(state_, position_);
}

void Session::restore(const Snapshot& snapshot) {
  sequences_->load(state_, snapshot);
  position_ = snapshot.position;
}

std::vector<float> Session::recurrent_state(int64_t index) const {
  return sequences_->recurrent_state(state_, index);
}

std::vector<float> Session::conv_state(int64_t index) const {
  return sequences_->conv_state(state_, index);
}

}  // namespace hotset
