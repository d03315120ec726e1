#include "engine/progress.h"

#include "engine/terminal.h"
#include "engine/text.h"

#include <fmt/format.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <fstream>

namespace dino {
namespace {

constexpr double kTerminalInterval_s = 0.1;
constexpr double kPlainInterval_s = 10;
constexpr int kBarWidth = 16;
constexpr double kPaceWindow_s = 30;
constexpr double kPaceSpacing_s = 0.5;

/// A terminal that was closed, or a full disk under a redirected output, must not end the work.
void print_or_not(std::FILE* out, const std::string& text) {
  std::fputs(text.c_str(), out);
  std::fflush(out);
}

}  // namespace

std::size_t resident_bytes() {
  std::ifstream file("/proc/self/statm");
  std::size_t total = 0;
  std::size_t resident = 0;
  file >> total >> resident;
  return resident * static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
}

std::size_t peak_resident_bytes() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<std::size_t>(usage.ru_maxrss) * 1024;
}

std::string format_duration(double seconds) {
  const auto s = static_cast<std::int64_t>(std::isfinite(seconds) ? std::max(seconds, 0.0) + 0.5 : 0.0);
  if (s >= 3600) return fmt::format("{}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60);
  return fmt::format("{}:{:02}", s / 60, s % 60);
}

void RemainingTime::note(double at_s, std::int64_t done) {
  // What came before the first of the things that are counted says nothing about their pace.
  if (marks_.size() == 1 && marks_[0].done == done) marks_.clear();
  // The newest mark moves until it is far enough from the one before.
  if (marks_.size() >= 2 && at_s - marks_[marks_.size() - 2].at_s < kPaceSpacing_s) marks_.pop_back();
  marks_.push_back({at_s, done});
  while (marks_.size() > 2 && at_s - marks_[1].at_s >= kPaceWindow_s) marks_.pop_front();
}

double RemainingTime::left_s(std::int64_t total) const {
  if (marks_.empty() || marks_.back().done <= marks_.front().done) return 0;
  const double seconds_each =
      (marks_.back().at_s - marks_.front().at_s) / static_cast<double>(marks_.back().done - marks_.front().done);
  return seconds_each * static_cast<double>(total - marks_.back().done);
}

Progress::Progress(std::string title, std::int64_t total, std::int64_t done, std::FILE* out)
    : title_(std::move(title)),
      total_(total),
      first_(done),
      done_(done),
      out_(out),
      terminal_(out != nullptr && is_live_terminal(out)),
      start_(Clock::now()) {
  remaining_.note(0, done);
}

Progress::~Progress() {
  if (terminal_ && drawn_) std::fputc('\n', out_);
}

void Progress::update(std::int64_t done, std::string_view details) {
  if (out_ == nullptr) return;
  done_ = done;
  if (is_quiet()) return;
  const double elapsed_s = std::chrono::duration<double>(Clock::now() - start_).count();
  remaining_.note(elapsed_s, done);
  if (elapsed_s < next_draw_s_ && done < total_) return;
  // Lines of a log are for what has been done.
  if (!terminal_ && done == first_) return;
  next_draw_s_ = elapsed_s + (terminal_ ? kTerminalInterval_s : kPlainInterval_s);
  draw(details);
}

void Progress::draw(std::string_view details) {
  const double share = total_ > 0 ? static_cast<double>(done_) / static_cast<double>(total_) : 1.0;
  const std::string line = printable(
      fmt::format("{} {}/{}{}{} | {:.2f} GiB | {} left", title_, done_, total_, details.empty() ? "" : " ", details,
                  static_cast<double>(resident_bytes()) * 0x1p-30, format_duration(remaining_.left_s(total_))));
  if (terminal_) {
    std::string bar;
    const int full = static_cast<int>(share * kBarWidth);
    for (int i = 0; i < kBarWidth; ++i) bar += i < full ? '#' : '.';
    // A line that wraps cannot be overwritten.
    const std::string whole = fmt::format("[{}] {}", bar, line);
    const auto room = static_cast<std::size_t>(terminal_columns(out_)) - 1;
    print_or_not(out_, fmt::format("\r\033[K{}", first_columns(whole, room)));
  } else {
    print_or_not(out_, line + '\n');
  }
  drawn_ = true;
}

void Progress::message(std::string_view line) {
  if (out_ == nullptr || is_quiet()) return;
  clear();
  print_or_not(out_, printable_lines(line) + '\n');
}

void Progress::clear() {
  if (!terminal_) return;
  if (drawn_) print_or_not(out_, "\r\033[K");
  drawn_ = false;
  next_draw_s_ = 0;
}

}  // namespace dino
