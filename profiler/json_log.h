// A log of JSON lines that never grows beyond a bound: FILE, and FILE.1, the oldest of which goes
// when FILE is full. A disk that is full costs lines, which are counted, never an exception.
// Thread-compatible.
#pragma once

#include <cstdint>
#include <string>

namespace hotset {

class JsonLog {
 public:
  // `bytes_max` for both files. Throws Error: the file cannot be opened, another daemon writes it.
  JsonLog(std::string path, int64_t bytes_max);
  ~JsonLog();
  JsonLog(const JsonLog&) = delete;

  void append(const std::string& line);  // without its newline
  uint64_t lost() const { return lost_; }

 private:
  void open_file();
  bool make_room();  // false: there is none

  const std::string path_;
  const int64_t bytes_max_;
  int fd_ = -1;
  int64_t bytes_ = 0;
  bool is_broken_ = false;  // the last line was not written whole
  uint64_t lost_ = 0;
};

}  // namespace hotset
