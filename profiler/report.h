// A self-contained page from a daemon's log: the live page's charts, over one run.
#pragma once

#include <string>

namespace hotset {

// `log`: the text of the file; `name`: for messages. Lines that are no JSON (a disk that was full,
// a daemon that was killed) are left out. Throws Error where no line is a tick's.
std::string report_of(const std::string& log, const std::string& name);

}  // namespace hotset
