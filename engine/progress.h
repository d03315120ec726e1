#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <deque>
#include <string>
#include <string_view>

namespace dino {

/// Memory of this process that is resident now, and the most that ever was.
std::size_t resident_bytes();
std::size_t peak_resident_bytes();

/// `1:02:03`, `4:05`
std::string format_duration(double seconds);

/// Foretells the end of a loop from its pace in the last half minute, so that a slow start or a pause does not count
/// for long.
class RemainingTime {
 public:
  /// `done` are finished `at_s` seconds after the start; times do not decrease.
  void note(double at_s, std::int64_t done);
  /// Seconds from the newest note on; 0 while nothing is known about the pace.
  double left_s(std::int64_t total) const;

 private:
  struct Mark {
    double at_s;
    std::int64_t done;
  };
  std::deque<Mark> marks_;
};

/// How far a long loop has got: a bar that redraws itself on a terminal, else a plain line every few seconds.
/// Shows what the caller says, the memory in use and the time that is left. Output that cannot be written is lost. Says
/// nothing where is_quiet().
class Progress {
 public:
  /// `done` of `total` are finished already. Without `out` nothing is shown.
  Progress(std::string title, std::int64_t total, std::int64_t done = 0, std::FILE* out = stderr);
  /// Ends the bar's line.
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  void update(std::int64_t done, std::string_view details = {});
  /// Prints a line of its own above the bar.
  void message(std::string_view line);
  /// Takes the bar off the terminal until the next update(), for output that goes elsewhere.
  void clear();

 private:
  using Clock = std::chrono::steady_clock;
  void draw(std::string_view details);

  std::string title_;
  std::int64_t total_, first_, done_;
  std::FILE* out_;
  bool terminal_;
  bool drawn_ = false;
  Clock::time_point start_;
  RemainingTime remaining_;
  double next_draw_s_ = 0;
};

}  // namespace dino
