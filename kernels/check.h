// The three kinds of error (docs/architecture.md): our own bug aborts with a reason, in release
// too; a wrong world (file, YAML, machine) throws Error; an expected outcome is a value.
#pragma once

#include <stdexcept>
#include <string>

namespace hotset {

// The world is not as we need it. The message names file, key or tensor, what was found, what was
// expected and, where it is not obvious, what to do. Caught in main and at each thread's top.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

[[noreturn]] void check_failed(const char* file, int line, const char* condition, const char* why);

}  // namespace hotset

// Our own bug: aborts, in release builds too.
#define HOTSET_CHECK(condition, why) \
  ((condition) ? (void)0 : ::hotset::check_failed(__FILE__, __LINE__, #condition, why))

// For per-element loops: on in debug builds only.
#ifdef NDEBUG
#define HOTSET_DCHECK(condition, why) ((void)0)
#else
#define HOTSET_DCHECK(condition, why) HOTSET_CHECK(condition, why)
#endif
