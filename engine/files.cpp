#include "engine/files.h"

#include "kernels/common/error.h"

#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <sstream>

namespace dino {
namespace {

constexpr std::string_view kPartSuffix = ".part";

bool is_running(pid_t process) { return kill(process, 0) == 0 || errno != ESRCH; }

}  // namespace

AtomicFile::AtomicFile(std::filesystem::path path) : path_(std::move(path)) {
  // Renaming would put a file in the place of a device or a pipe.
  std::error_code none_yet;
  const std::filesystem::file_status status = std::filesystem::status(path_, none_yet);
  require(!std::filesystem::exists(status) || std::filesystem::is_regular_file(status), "file",
          "cannot write {}: it is {}; try another name", path_.string(),
          std::filesystem::is_directory(status) ? "a folder" : "not a regular file");
  partial_ = path_;
  partial_ += fmt::format("{}{}", kPartSuffix, getpid());
  descriptor_ = open(partial_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  require(descriptor_ >= 0, "file", "cannot write {}: {}", path_.string(), std::strerror(errno));
}

AtomicFile::~AtomicFile() {
  if (descriptor_ < 0) return;
  close(descriptor_);
  unlink(partial_.c_str());
}

void AtomicFile::write(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t written = ::write(descriptor_, bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    require(written > 0, "file", "cannot write {}: {}", partial_.string(), std::strerror(written < 0 ? errno : EIO));
    bytes = bytes.subspan(static_cast<std::size_t>(written));
  }
}

void AtomicFile::write(std::string_view text) { write(std::as_bytes(std::span(text.data(), text.size()))); }

void AtomicFile::commit() {
  require(fsync(descriptor_) == 0, "file", "cannot write {} to the disk: {}", partial_.string(), std::strerror(errno));
  const int closed = close(descriptor_);
  descriptor_ = -1;
  if (closed != 0 || std::rename(partial_.c_str(), path_.c_str()) != 0) {
    const int reason = errno;
    unlink(partial_.c_str());
    fail("file", "cannot write {}: {}", path_.string(), std::strerror(reason));
  }
  // The new name is safe once the folder is on the disk; file systems without folder syncing refuse, which is harmless.
  const std::filesystem::path folder = path_.has_parent_path() ? path_.parent_path() : std::filesystem::path(".");
  const int folder_descriptor = open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (folder_descriptor >= 0) {
    fsync(folder_descriptor);
    close(folder_descriptor);
  }
}

void make_output_folder(const std::filesystem::path& path) {
  std::error_code error;
  std::filesystem::create_directories(path, error);
  require(!error, "file", "cannot make the folder {}: {}; try another name", path.string(), error.message());
  const AtomicFile trial(path / "trial");  // goes away by itself
}

void remove_abandoned_parts(const std::filesystem::path& folder) {
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator(folder, ignored)) {
    const std::string name = entry.path().filename().string();
    const std::size_t suffix = name.rfind(kPartSuffix);
    if (suffix == std::string::npos) continue;
    const char* end = name.data() + name.size();
    pid_t process = 0;
    const auto parsed = std::from_chars(name.data() + suffix + kPartSuffix.size(), end, process);
    if (parsed.ec == std::errc() && parsed.ptr == end && process > 0 && !is_running(process)) {
      std::filesystem::remove(entry.path(), ignored);
    }
  }
}

std::string read_text_file(const std::filesystem::path& path) {
  std::error_code ignored;
  require(!std::filesystem::is_directory(path, ignored), "file", "cannot read {}: it is a folder", path.string());
  std::ifstream file(path, std::ios::binary);
  require(file.good(), "file", "cannot read {}: {}", path.string(), std::strerror(errno));
  std::ostringstream text;
  text << file.rdbuf();
  require(!file.bad(), "file", "cannot read {}: {}", path.string(), std::strerror(errno));
  return std::move(text).str();
}

}  // namespace dino
