#include "runtime/session.h"

#include <fmt/format.h>

#include <utility>

#include "kernels/check.h"
#include "runtime/device.h"

namespace hotset {

Session::Session(Device& device, bool has_recurrent_state)
    : device_(&device), has_recurrent_state_(has_recurrent_state), state_(device.open_sequence()) {}

Session::~Session() {
  if (device_ != nullptr) device_->close_sequence(state_);
}

Session::Session(Session&& other) noexcept
    : device_(std::exchange(other.device_, nullptr)),
      has_recurrent_state_(other.has_recurrent_state_),
      position_(std::exchange(other.position_, 0)),
      state_(std::move(other.state_)) {}

Session& Session::operator=(Session&& other) noexcept {
  std::swap(device_, other.device_);
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
  if (position == 0) device_->clear_recurrent(state_);
  device_->resize_sequence(state_, position);
  position_ = position;
}

Snapshot Session::snapshot() const {
  return device_->save(state_, position_);
}

void Session::restore(const Snapshot& snapshot) {
  device_->load(state_, snapshot);
  position_ = snapshot.position;
}

std::vector<float> Session::recurrent_state(int64_t index) const {
  return device_->recurrent_state(state_, index);
}

std::vector<float> Session::conv_state(int64_t index) const {
  return device_->conv_state(state_, index);
}

}  // namespace hotset
