// The page's three files, embedded at build time from profiler/page/, and the library that draws
// its charts: Chart.js (MIT) of Debian's package, whole and with its notice.
#pragma once

namespace hotset {

extern const char* const kPageHtml;
extern const char* const kPageScript;
extern const char* const kPageCharts;
extern const char* const kPageStyle;

}  // namespace hotset
