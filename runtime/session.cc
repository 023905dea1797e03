#include "runtime/session.h"

#include <fmt/format.h>

#include <utility>

#include "kernels/check.h"
#include "kernels/cuda/card_runtime.h"
#include "runtime/sequence_pool.h"

namespace hotset {

Session::Session(std::shared_ptr<SequencePool> sequences, bool has_recurrent_state,
                 int64_t positions)
    : sequences_(std::move(sequences)),
      has_recurrent_state_(has_recurrent_state),
      state_(sequences_->open()) {
  tokens_.reserve(static_cast<size_t>(positions));
}

Session::~Session() {
  if (sequences_ != nullptr) sequences_->close(state_);
}

Session::Session(Session&& other) noexcept
    : sequences_(std::move(other.sequences_)),
      has_recurrent_state_(other.has_recurrent_state_),
      tokens_(std::move(other.tokens_)),
      state_(std::move(other.state_)) {}

Session& Session::operator=(Session&& other) noexcept {
  std::swap(sequences_, other.sequences_);
  std::swap(has_recurrent_state_, other.has_recurrent_state_);
  std::swap(tokens_, other.tokens_);
  std::swap(state_, other.state_);
  return *this;
}

bool Session::can_truncate(int64_t position) const {
  if (position < 0 || position > this->position()) return false;
  return position == 0 || position == this->position() || !has_recurrent_state_;
}

void Session::truncate(int64_t position) {
  if (!can_truncate(position)) {
    throw Error(
        fmt::format("a session at position {} cannot go back to {}: {}", this->position(), position,
                    has_recurrent_state_ ? "this model's recurrent state cannot be rewound; "
                                           "restore a snapshot taken there instead"
                                         : "it is not between 0 and the present"));
  }
  if (position == 0) clear_recurrent();
  sequences_->resize(state_, position);
  tokens_.resize(static_cast<size_t>(position));
}

// On a card that is lost nothing will be computed with it: the session is empty all the same, and
// the next step says what has happened, where the CPU can go on.
void Session::clear_recurrent() {
  try {
    sequences_->clear_recurrent(state_);
  } catch (const CardError& error) {
    if (!error.is_lost()) throw;
  }
}

Snapshot Session::snapshot() const {
  Snapshot snapshot = sequences_->save(state_, position());
  snapshot.tokens = tokens_;
  return snapshot;
}

void Session::restore(const Snapshot& snapshot) {
  sequences_->load(state_, snapshot);
  tokens_.assign(snapshot.tokens.begin(), snapshot.tokens.end());
}

std::vector<float> Session::recurrent_state(int64_t index) const {
  return sequences_->recurrent_state(state_, index);
}

std::vector<float> Session::conv_state(int64_t index) const {
  return sequences_->conv_state(state_, index);
}

}  // namespace hotset
