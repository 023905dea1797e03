// The page's three files, embedded at build time from profiler/page/.
#pragma once

namespace hotset {

extern const char* const kPageHtml;
extern const char* const kPageScript;
extern const char* const kPageStyle;

}  // namespace hotset
