// One timeline of tokens, and handles to the KV blocks and the recurrent state that a device holds
// for it. Move-only; gives its memory back to the device that it was opened on, which stays for it
// where the engine has left a card. The engine must outlive it. Thread-compatible.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

namespace hotset {

class SequencePool;

// Handles into a device's pools.
struct SequenceState {
  std::vector<int32_t> kv_blocks;  // of 256 positions
  int32_t recurrent = -1;
};

// A copy of a session's state on the host, valid for the engine that made it.
struct Snapshot {
  std::vector<int32_t> tokens;
  std::vector<std::byte> kv, recurrent;
};

class Session {
 public:
  // Made by Engine::open_session, for at most so many positions.
  Session(std::shared_ptr<SequencePool> sequences, bool has_recurrent_state, int64_t positions);
  ~Session();
  Session(Session&& other) noexcept;
  Session& operator=(Session&& other) noexcept;

  int64_t position() const { return std::ssize(tokens_); }
  std::span<const int32_t> tokens() const { return tokens_; }  // those that it was fed
  // To an earlier position. A recurrent state cannot be rewound: then only 0 (reset) and the
  // present position are possible, everything else is an Error; use snapshots.
  bool can_truncate(int64_t position) const;
  void truncate(int64_t position);
  Snapshot snapshot() const;
  void restore(const Snapshot& snapshot);

  // Recurrent and convolution state of delta-net layer `index` as float32, for `hotset eval
  // --states`. Shapes: [value heads][dk][dv] and [channels][width - 1], oldest first.
  std::vector<float> recurrent_state(int64_t index) const;
  std::vector<float> conv_state(int64_t index) const;

 private:
  friend class Engine;
  void clear_recurrent();

  std::shared_ptr<SequencePool> sequences_;
  bool has_recurrent_state_ = false;
  std::vector<int32_t> tokens_;
  SequenceState state_;
};

}  // namespace hotset
