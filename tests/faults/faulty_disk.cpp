// Stands between a program and the disk (LD_PRELOAD), for the files below the folder DINO_DISK_FOLDER:
// - DINO_DISK_FAULTS=seed: calls fail (full disk for a while, short writes, input/output errors, failing syncs, renames
//   and links); sleeping takes no time. Their number is appended to the file DINO_DISK_COUNT.
// - DINO_DISK_FULL=n-m: the disk takes nothing from the n-th to the m-th call that changes something; sleeping takes no
//   time.
// - DINO_DISK_KILL=n: SIGKILL in the n-th call that changes something, in the middle of it where it writes.
// - DINO_DISK_SIGNAL=n: SIGUSR1 in the n-th such call, which then goes on.
// - DINO_DISK_RECORD=file: what is done, for disk_record.h.
// - DINO_DISK_WITHOUT_LOCKS=1: flock fails.
// No call is made on a thread of its own in the programs under test, so that one seed is one course of events.
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <string>

namespace {

/// The function that this library stands in front of.
template <typename Function>
Function* behind(Function* /*of this type*/, const char* name) {
  return reinterpret_cast<Function*>(dlsym(RTLD_NEXT, name));
}

const char* setting(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

enum class Kind { open, write, sync, close, rename, link, unlink };

/// SplitMix64.
std::uint64_t mixed(std::uint64_t x) {
  x += 0x9e3779b97f4a7c15u;
  x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
  x = (x ^ x >> 27) * 0x94d049bb133111ebu;
  return x ^ x >> 31;
}

class Disk {
 public:
  static Disk& instance() {
    static Disk& disk = *new Disk;  // never destroyed: files are closed late
    return disk;
  }

  bool has(const char* path) const {
    return !folder_.empty() && std::strncmp(path, folder_.c_str(), folder_.size()) == 0;
  }
  /// Path of a descriptor below the folder; null for any other.
  const char* path_of(int descriptor) const {
    const auto at = open_.find(descriptor);
    return at == open_.end() ? nullptr : at->second.c_str();
  }
  void opened(int descriptor, const char* path) { open_[descriptor] = path; }
  void closed(int descriptor) { open_.erase(descriptor); }

  bool sleeps() const { return !has_faults_ && full_to_ == 0; }

  /// Counts a call, and sends the signal if its time has come. Is it the call to die in?
  bool dies() {
    if (++calls_ == signal_at_) kill(getpid(), SIGUSR1);
    return calls_ == kill_at_;
  }

  /// The error that the present call has to fail with; 0 for none.
  int fault(Kind kind) {
    if (takes_room(kind) && calls_ >= full_from_ && calls_ <= full_to_) return counted(ENOSPC);
    if (!has_faults_) return 0;
    constexpr std::uint64_t kEpisode_calls = 300;
    const bool is_full = mixed(seed_ ^ calls_ / kEpisode_calls) % 5 == 0;
    if (is_full && takes_room(kind)) return counted(ENOSPC);
    const std::uint64_t draw = mixed(seed_ * 31 + calls_);
    switch (kind) {
      case Kind::open: return draw % 40 == 0 ? counted(EIO) : 0;
      case Kind::write: return draw % 1500 == 0 ? counted(EIO) : draw % 50 == 0 ? EINTR : 0;
      case Kind::sync: return draw % 16 == 0 ? counted(EIO) : draw % 8 == 1 ? EINTR : 0;
      case Kind::close: return draw % 40 == 0 ? counted(EIO) : 0;
      case Kind::rename: return draw % 25 == 0 ? counted(EIO) : 0;
      case Kind::link: return draw % 4 == 0 ? EPERM : draw % 4 == 1 && draw % 5 == 0 ? counted(EIO) : 0;
      case Kind::unlink: return 0;
    }
    return 0;
  }
  /// Of the bytes that are to be written, those that are.
  std::size_t taken(std::size_t bytes) const {
    if (!has_faults_ || bytes < 2) return bytes;
    const std::uint64_t draw = mixed(seed_ * 37 + calls_);
    return draw % 5 == 0 ? 1 + static_cast<std::size_t>(draw >> 8) % (bytes - 1) : bytes;
  }

  template <typename... Args>
  void record(const char* format, Args... args) {
    if (record_ < 0) return;
    char text[2 * PATH_MAX + 64];
    const int size = std::snprintf(text, sizeof text, format, args...);
    put(text, static_cast<std::size_t>(size));
  }
  void record_bytes(const void* bytes, std::size_t size) {
    if (record_ >= 0) put(bytes, size);
  }

  std::recursive_mutex& mutex() { return mutex_; }

 private:
  Disk()
      : folder_(setting("DINO_DISK_FOLDER")),
        kill_at_(std::strtoull(setting("DINO_DISK_KILL"), nullptr, 10)),
        signal_at_(std::strtoull(setting("DINO_DISK_SIGNAL"), nullptr, 10)) {
    char* end = nullptr;
    full_from_ = std::strtoull(setting("DINO_DISK_FULL"), &end, 10);
    full_to_ = *end == '-' ? std::strtoull(end + 1, nullptr, 10) : 0;
    has_faults_ = *setting("DINO_DISK_FAULTS") != '\0';
    seed_ = mixed(std::strtoull(setting("DINO_DISK_FAULTS"), nullptr, 10));
    constexpr int kAppend = O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC;
    const auto open_real = behind(&::open, "open");
    if (*setting("DINO_DISK_RECORD") != '\0') record_ = open_real(setting("DINO_DISK_RECORD"), kAppend, 0644);
    if (*setting("DINO_DISK_COUNT") != '\0') count_ = open_real(setting("DINO_DISK_COUNT"), kAppend, 0644);
  }

  static bool takes_room(Kind kind) {
    return kind == Kind::open || kind == Kind::write || kind == Kind::rename || kind == Kind::link;
  }
  int counted(int error) {
    static const auto write_real = behind(&::write, "write");
    if (count_ >= 0) (void)!write_real(count_, "x", 1);
    return error;
  }
  void put(const void* bytes, std::size_t size) {
    static const auto write_real = behind(&::write, "write");
    if (write_real(record_, bytes, size) != static_cast<ssize_t>(size)) abort();
  }

  std::recursive_mutex mutex_;
  std::string folder_;
  std::map<int, std::string> open_;
  std::uint64_t kill_at_, signal_at_, full_from_ = 0, full_to_ = 0, seed_ = 0, calls_ = 0;
  bool has_faults_ = false;
  int record_ = -1, count_ = -1;
};

void die() {
  kill(getpid(), SIGKILL);
  for (;;) pause();
}

int fail_with(int error) {
  errno = error;
  return -1;
}

template <typename Open>
int open_through(const Open& open_real, const char* path, int flags, mode_t mode) {
  Disk& disk = Disk::instance();
  if (!disk.has(path)) return open_real(path, flags, mode);
  const std::lock_guard lock(disk.mutex());
  const bool changes = (flags & (O_CREAT | O_TRUNC)) != 0;
  if (changes) {
    if (disk.dies()) die();
    if (const int error = disk.fault(Kind::open)) return fail_with(error);
  }
  const int descriptor = open_real(path, flags, mode);
  if (descriptor < 0) return descriptor;
  disk.opened(descriptor, path);
  if (changes) disk.record("open %d %d %s\n", descriptor, (flags & O_TRUNC) != 0 ? 1 : 0, path);
  return descriptor;
}

/// `offset` is -1 for where the descriptor stands.
template <typename Write>
ssize_t write_through(const Write& write_real, int descriptor, const void* bytes, std::size_t size, off_t offset) {
  Disk& disk = Disk::instance();
  const std::lock_guard lock(disk.mutex());
  if (disk.path_of(descriptor) == nullptr) return write_real(size);
  if (disk.dies()) {
    write_real(size / 2);
    die();
  }
  if (const int error = disk.fault(Kind::write)) return fail_with(error);
  if (offset < 0) offset = lseek(descriptor, 0, SEEK_CUR);
  const ssize_t written = write_real(disk.taken(size));
  if (written > 0) {
    disk.record("write %d %lld %lld\n", descriptor, static_cast<long long>(offset), static_cast<long long>(written));
    disk.record_bytes(bytes, static_cast<std::size_t>(written));
  }
  return written;
}

mode_t mode_of(int flags, va_list arguments) {
  return (flags & O_CREAT) != 0 ? static_cast<mode_t>(va_arg(arguments, int)) : 0;
}

}  // namespace

extern "C" {

int open(const char* path, int flags, ...) {
  static const auto real = behind(&open, "open");
  va_list arguments;
  va_start(arguments, flags);
  const mode_t mode = mode_of(flags, arguments);
  va_end(arguments);
  return open_through(real, path, flags, mode);
}

int open64(const char* path, int flags, ...) {
  static const auto real = behind(&open64, "open64");
  va_list arguments;
  va_start(arguments, flags);
  const mode_t mode = mode_of(flags, arguments);
  va_end(arguments);
  return open_through(real, path, flags, mode);
}

ssize_t write(int descriptor, const void* bytes, std::size_t size) {
  static const auto real = behind(&write, "write");
  const auto call = [&](std::size_t part) { return real(descriptor, bytes, part); };
  return write_through(call, descriptor, bytes, size, -1);
}

ssize_t pwrite(int descriptor, const void* bytes, std::size_t size, off_t offset) {
  static const auto real = behind(&pwrite, "pwrite");
  const auto call = [&](std::size_t part) { return real(descriptor, bytes, part, offset); };
  return write_through(call, descriptor, bytes, size, offset);
}

ssize_t pwrite64(int descriptor, const void* bytes, std::size_t size, off64_t offset) {
  static const auto real = behind(&pwrite64, "pwrite64");
  const auto call = [&](std::size_t part) { return real(descriptor, bytes, part, offset); };
  return write_through(call, descriptor, bytes, size, offset);
}

int fsync(int descriptor) {
  static const auto real = behind(&fsync, "fsync");
  Disk& disk = Disk::instance();
  const std::lock_guard lock(disk.mutex());
  const char* path = disk.path_of(descriptor);
  if (path == nullptr) return real(descriptor);
  if (disk.dies()) die();
  if (const int error = disk.fault(Kind::sync)) return fail_with(error);
  const int result = real(descriptor);
  struct stat status {};
  if (result == 0 && fstat(descriptor, &status) == 0) {
    S_ISDIR(status.st_mode) ? disk.record("sync_folder %s\n", path) : disk.record("sync %d\n", descriptor);
  }
  return result;
}

int close(int descriptor) {
  static const auto real = behind(&close, "close");
  Disk& disk = Disk::instance();
  const std::lock_guard lock(disk.mutex());
  if (disk.path_of(descriptor) == nullptr) return real(descriptor);
  disk.record("close %d\n", descriptor);
  disk.closed(descriptor);
  const int result = real(descriptor);
  if (const int error = disk.fault(Kind::close)) return fail_with(error);
  return result;
}

int rename(const char* from, const char* to) noexcept {
  static const auto real = behind(&rename, "rename");
  Disk& disk = Disk::instance();
  if (!disk.has(from)) return real(from, to);
  const std::lock_guard lock(disk.mutex());
  if (disk.dies()) die();
  if (const int error = disk.fault(Kind::rename)) return fail_with(error);
  const int result = real(from, to);
  if (result == 0) disk.record("rename %s\n%s\n", from, to);
  return result;
}

int link(const char* from, const char* to) noexcept {
  static const auto real = behind(&link, "link");
  Disk& disk = Disk::instance();
  if (!disk.has(from)) return real(from, to);
  const std::lock_guard lock(disk.mutex());
  if (disk.dies()) die();
  if (const int error = disk.fault(Kind::link)) return fail_with(error);
  const int result = real(from, to);
  if (result == 0) disk.record("link %s\n%s\n", from, to);
  return result;
}

int unlink(const char* path) noexcept {
  static const auto real = behind(&unlink, "unlink");
  Disk& disk = Disk::instance();
  if (!disk.has(path)) return real(path);
  const std::lock_guard lock(disk.mutex());
  if (disk.dies()) die();
  const int result = real(path);
  if (result == 0) disk.record("unlink %s\n", path);
  return result;
}

int flock(int descriptor, int operation) noexcept {
  static const auto real = behind(&flock, "flock");
  Disk& disk = Disk::instance();
  const std::lock_guard lock(disk.mutex());
  const bool fails = disk.path_of(descriptor) != nullptr && *setting("DINO_DISK_WITHOUT_LOCKS") != '\0';
  return fails ? fail_with(ENOLCK) : real(descriptor, operation);
}

int clock_nanosleep(clockid_t clock, int flags, const timespec* until, timespec* left) {
  static const auto real = behind(&clock_nanosleep, "clock_nanosleep");
  return Disk::instance().sleeps() ? real(clock, flags, until, left) : 0;
}

int nanosleep(const timespec* time, timespec* left) {
  static const auto real = behind(&nanosleep, "nanosleep");
  return Disk::instance().sleeps() ? real(time, left) : 0;
}

}  // extern "C"
