#include "engine/folder_lock.h"

#include "engine/text.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <sstream>
#include <utility>
#include <vector>

namespace dino {
namespace {

/// The process that has an exclusive flock on a file, by the kernel's table (proc(5), /proc/locks); 0 where it does not
/// say.
pid_t locking_process(const struct stat& file) {
  const std::string device = fmt::format("{:02x}:{:02x}", major(file.st_dev), minor(file.st_dev));
  std::vector<pid_t> on_other_devices;
  std::ifstream table("/proc/locks");
  for (std::string line; std::getline(table, line);) {
    // `3: FLOCK  ADVISORY  WRITE 4711 08:01:131085 0 EOF`; those that wait have an arrow in the second place.
    std::istringstream words(line);
    std::string number, kind, advisory, access, place;
    pid_t process = 0;
    if (!(words >> number >> kind >> advisory >> access >> process >> place)) continue;
    const std::size_t inode = place.rfind(':');
    if (kind != "FLOCK" || access != "WRITE" || process <= 0 || inode == std::string::npos) continue;
    if (place.substr(inode + 1) != std::to_string(file.st_ino)) continue;
    if (place.substr(0, inode) == device) return process;
    on_other_devices.push_back(process);
  }
  // File systems of several layers give their files other devices than the table has.
  return on_other_devices.size() == 1 ? on_other_devices.front() : 0;
}

}  // namespace

FolderLock::FolderLock(std::filesystem::path folder)
    : folder_(std::move(folder)), descriptor_(open(folder_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)) {
  int result = descriptor_ < 0 ? -1 : flock(descriptor_, LOCK_EX | LOCK_NB);
  while (descriptor_ >= 0 && result != 0 && errno == EINTR) result = flock(descriptor_, LOCK_EX | LOCK_NB);
  state_ = result == 0 ? State::held : descriptor_ >= 0 && errno == EWOULDBLOCK ? State::taken : State::unavailable;
  if (state_ == State::unavailable) trouble_ = std::strerror(errno);
}

FolderLock::~FolderLock() {
  if (descriptor_ >= 0) close(descriptor_);
}

std::string FolderLock::holder() const {
  struct stat status {};
  const pid_t process = descriptor_ >= 0 && fstat(descriptor_, &status) == 0 ? locking_process(status) : 0;
  if (process == 0) return "another process";
  std::string name;
  std::getline(std::ifstream(fmt::format("/proc/{}/comm", process)), name);
  return name.empty() ? fmt::format("process {}", process) : fmt::format("process {} ({})", process, printable(name));
}

void FolderLock::sync() const {
  if (state_ == State::held) syncfs(descriptor_);
}

}  // namespace dino
