// Ctrl-C: a flag that loops look at, so that files are closed and terminals left in order. A second
// Ctrl-C that nobody has looked at in between ends the process at once.
#pragma once

namespace hotset {

// Thrown where an interrupted command gives up; main turns it into exit code 130.
struct Interrupted {};

void catch_interrupts();
bool interrupted();
void clear_interrupt();
void throw_if_interrupted();

}  // namespace hotset
