// The physical cores that this process may compute on, and how a thread keeps to one of them.
#pragma once

#include <sched.h>

#include <vector>

namespace hotset {

// The hardware threads of each core, out of the CPUs that were allowed when this was first asked: a
// thread that has since been kept to its core must not narrow the choice of others. At least one.
const std::vector<cpu_set_t>& physical_cores();

// Keeps the thread that makes it to core `index` until its end; counted round, so that beyond the
// last core threads share cores from the first on. Where a thread runs never changes a result, so a
// system that refuses is not an error.
class CorePin {
 public:
  explicit CorePin(int index);
  ~CorePin();
  CorePin(const CorePin&) = delete;

 private:
  const pid_t thread_;
  cpu_set_t before_;
};

}  // namespace hotset
