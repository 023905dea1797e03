// Signals that ask a command to end: flags that loops look at, so that files are closed, what was
// learned is saved and terminals are left in order. Ctrl-C (SIGINT) ends what is being done, which
// in a chat is an answer; SIGTERM and SIGHUP (the terminal is gone) end the process. A second
// Ctrl-C that nobody has looked at in between ends it at once.
#pragma once

namespace hotset {

// Thrown where a command that is to end gives up; main turns it into end_exit_code().
struct Interrupted {};

// From now on; a SIGHUP that whoever started us had ignored (nohup) stays ignored.
void catch_interrupts();
bool interrupted();      // by any of them
void clear_interrupt();  // forgets a Ctrl-C, and nothing else
void throw_if_interrupted();
// Returns when the terminal can be read, or a signal has come, even one that came just before.
void wait_for_terminal(int fd);
int end_exit_code();  // 130 for Ctrl-C, 143 for SIGTERM, 129 for SIGHUP

}  // namespace hotset
