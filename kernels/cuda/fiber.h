// A stack of its own for a thread of the emulated card, and the switch from one to another. Tells
// the sanitizers what it does.
#pragma once

#include <cstddef>

namespace hotset::emulated {

// Where something that runs can be left and gone on with: a fiber, or the host's thread itself.
struct Context {
  void* stack_pointer = nullptr;
  const void* stack = nullptr;  // lowest address
  size_t stack_bytes = 0;
  void* fake_stack = nullptr;  // AddressSanitizer's
  void* tsan_fiber = nullptr;
};

// Goes on with `to`; returns when somebody goes on with `from`.
void switch_context(Context& from, Context& to);
// The first thing that a new context does: `from` is who went on with it.
void enter_context(Context& from);
// The context of the host's thread that calls.
void adopt_thread(Context& context);

// For ThreadSanitizer a fiber is a thread, and a switch orders nothing: what one thread of the card
// may see of another's is what a barrier or a collective hands over. What is between the two calls
// of Hidden is the executor's own and no race of a kernel.
class Hidden {
 public:
  Hidden();
  ~Hidden();
  Hidden(const Hidden&) = delete;
  Hidden& operator=(const Hidden&) = delete;
};
class Visible {  // within a Hidden
 public:
  Visible();
  ~Visible();
  Visible(const Visible&) = delete;
  Visible& operator=(const Visible&) = delete;
};
// What was done before hand_over(at) is seen by who takes over(at) later.
void hand_over(void* at);
void take_over(void* at);
#ifdef HOTSET_SANITIZES_thread
inline constexpr bool kIsThreadSanitized = true;
#else
inline constexpr bool kIsThreadSanitized = false;
#endif

// Memory for a fiber's stack below a page that faults, and the context that starts with `entry`,
// which never returns. RAII owner.
class Fiber {
 public:
  explicit Fiber(void (*entry)());
  ~Fiber();
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  Context context;

 private:
  void* memory_ = nullptr;
};

}  // namespace hotset::emulated
