#include "kernels/cuda/fiber.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>

#include "kernels/check.h"

#ifdef HOTSET_SANITIZES_address
#include <sanitizer/common_interface_defs.h>
#endif
#ifdef HOTSET_SANITIZES_thread
#include <sanitizer/tsan_interface.h>
extern "C" {
void AnnotateIgnoreReadsBegin(const char* file, int line);
void AnnotateIgnoreReadsEnd(const char* file, int line);
void AnnotateIgnoreWritesBegin(const char* file, int line);
void AnnotateIgnoreWritesEnd(const char* file, int line);
}
#endif

#ifndef __x86_64__
#error "the executor switches stacks with x86-64 instructions"
#endif

// Keeps what a called function has to keep, and exchanges the stack: about 15 instructions, where
// swapcontext makes two system calls for signal masks.
extern "C" void hotset_switch_stack(void** from, void* to);
__asm__(
    ".text\n"
    ".globl hotset_switch_stack\n"
    ".type hotset_switch_stack, @function\n"
    "hotset_switch_stack:\n"
    "  pushq %rbp\n"
    "  pushq %rbx\n"
    "  pushq %r12\n"
    "  pushq %r13\n"
    "  pushq %r14\n"
    "  pushq %r15\n"
    "  movq %rsp, (%rdi)\n"
    "  movq %rsi, %rsp\n"
    "  popq %r15\n"
    "  popq %r14\n"
    "  popq %r13\n"
    "  popq %r12\n"
    "  popq %rbx\n"
    "  popq %rbp\n"
    "  ret\n"
    ".size hotset_switch_stack, . - hotset_switch_stack\n");

namespace hotset::emulated {
namespace {

constexpr size_t kStackBytes = 256 * 1024;  // of addresses; a kernel touches a few pages

size_t page_bytes() {
  return static_cast<size_t>(sysconf(_SC_PAGESIZE));
}

}  // namespace

__attribute__((no_sanitize("thread"))) void switch_context(Context& from, Context& to) {
#ifdef HOTSET_SANITIZES_address
  __sanitizer_start_switch_fiber(&from.fake_stack, to.stack, to.stack_bytes);
#endif
#ifdef HOTSET_SANITIZES_thread
  __tsan_switch_to_fiber(to.tsan_fiber, __tsan_switch_to_fiber_no_sync);
#endif
  hotset_switch_stack(&from.stack_pointer, to.stack_pointer);
#ifdef HOTSET_SANITIZES_address
  __sanitizer_finish_switch_fiber(from.fake_stack, nullptr, nullptr);
#endif
}

void enter_context([[maybe_unused]] Context& from) {
#ifdef HOTSET_SANITIZES_address
  const void* stack = nullptr;
  size_t bytes = 0;
  __sanitizer_finish_switch_fiber(nullptr, &stack, &bytes);
  if (from.stack == nullptr) {  // a host's thread, whose stack nobody else knows
    from.stack = stack;
    from.stack_bytes = bytes;
  }
#endif
}

void adopt_thread([[maybe_unused]] Context& context) {
#ifdef HOTSET_SANITIZES_thread
  context.tsan_fiber = __tsan_get_current_fiber();
#endif
}

#ifdef HOTSET_SANITIZES_thread
Hidden::Hidden() {
  AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
  AnnotateIgnoreWritesBegin(__FILE__, __LINE__);
}
Hidden::~Hidden() {
  AnnotateIgnoreWritesEnd(__FILE__, __LINE__);
  AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
}
Visible::Visible() {
  AnnotateIgnoreWritesEnd(__FILE__, __LINE__);
  AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
}
Visible::~Visible() {
  AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
  AnnotateIgnoreWritesBegin(__FILE__, __LINE__);
}
void hand_over(void* at) {
  __tsan_release(at);
}
void take_over(void* at) {
  __tsan_acquire(at);
}
#else
Hidden::Hidden() = default;
Hidden::~Hidden() = default;
Visible::Visible() = default;
Visible::~Visible() = default;
void hand_over(void* /*at*/) {}
void take_over(void* /*at*/) {}
#endif

Fiber::Fiber(void (*entry)()) {
  const size_t guard = page_bytes();
  memory_ = mmap(nullptr, guard + kStackBytes, PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  HOTSET_CHECK(memory_ != MAP_FAILED, "no addresses for a stack of the emulated card");
  HOTSET_CHECK(mprotect(memory_, guard, PROT_NONE) == 0, "no guard page for an emulated stack");
  auto* const bottom = static_cast<std::byte*>(memory_) + guard;
  context.stack = bottom;
  context.stack_bytes = kStackBytes;
  // As hotset_switch_stack leaves a stack: six registers, the address to return to, and above it
  // the place of a caller, which the calling convention wants 8 bytes off a multiple of 16.
  auto* const top = reinterpret_cast<uintptr_t*>(bottom + kStackBytes);
  top[-1] = 0;
  top[-2] = reinterpret_cast<uintptr_t>(entry);
  for (int i = 3; i <= 8; ++i) top[-i] = 0;
  context.stack_pointer = top - 8;
#ifdef HOTSET_SANITIZES_thread
  context.tsan_fiber = __tsan_create_fiber(0);
#endif
}

Fiber::~Fiber() {
#ifdef HOTSET_SANITIZES_thread
  __tsan_destroy_fiber(context.tsan_fiber);
#endif
  munmap(memory_, page_bytes() + kStackBytes);
}

}  // namespace hotset::emulated
