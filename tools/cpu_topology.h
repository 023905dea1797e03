// How many threads this process should compute with: what the machine has and what it is allowed.
#pragma once

namespace hotset {

// Physical cores among the CPUs that this process may run on, at most the CPU quota of its control
// groups (v1 and v2), at least 1.
int usable_cores();

}  // namespace hotset
