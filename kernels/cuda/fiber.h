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
