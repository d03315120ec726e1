#include "engine/files.h"

#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <utility>

namespace dino {
namespace {

constexpr std::string_view kPartSuffix = ".part";

bool is_running(pid_t process) { return kill(process, 0) == 0 || errno != ESRCH; }

template <typename... Args>
[[noreturn]] void fail_to_write(int reason, fmt::format_string<Args...> format, Args&&... args) {
  throw WriteError(reason,
                   fmt::format("{}: {}", fmt::format(format, std::forward<Args>(args)...), std::strerror(reason)));
}

/// The name beside `path` under which this process writes it.
std::filesystem::path part_of(std::filesystem::path path) {
  path += fmt::format("{}{}", kPartSuffix, getpid());
  return path;
}

/// Calls until no signal comes between.
template <typename Call>
auto uninterrupted(const Call& call) {
  auto result = call();
  while (result < 0 && errno == EINTR) result = call();
  return result;
}

/// As many of the bytes as the system takes, from `offset` on; errno says why there are not more.
std::size_t write_at(int descriptor, std::span<const std::byte> bytes, std::uint64_t offset) {
  std::size_t done = 0;
  while (done < bytes.size()) {
    const ssize_t written = uninterrupted([&] {
      return pwrite(descriptor, bytes.data() + done, bytes.size() - done, static_cast<off_t>(offset + done));
    });
    if (written == 0) errno = EIO;
    if (written <= 0) break;
    done += static_cast<std::size_t>(written);
  }
  return done;
}

/// New names are safe once their folder is on the disk. File systems that cannot sync folders say so, which is
/// harmless.
void sync_folder_of(const std::filesystem::path& path) {
  const std::filesystem::path folder = path.has_parent_path() ? path.parent_path() : std::filesystem::path(".");
  const int descriptor = open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (descriptor < 0) return;
  const int reason = uninterrupted([&] { return fsync(descriptor); }) == 0 ? 0 : errno;
  close(descriptor);
  if (reason != 0 && reason != EINVAL && reason != ENOTSUP && reason != ENOSYS && reason != EROFS) {
    fail_to_write(reason, "cannot write the folder {} to the disk", folder.string());
  }
}

/// Gives the file at `path`, if there is one, the name `former` as well, at once in the place of what has that name.
void keep_as(const std::filesystem::path& path, const std::filesystem::path& former) {
  const std::filesystem::path second = part_of(former);
  unlink(second.c_str());  // of an earlier process with this number
  if (link(path.c_str(), second.c_str()) == 0) {
    const int reason = std::rename(second.c_str(), former.c_str()) == 0 ? 0 : errno;
    // Renaming leaves both names where they belong to one file already.
    unlink(second.c_str());
    if (reason != 0) fail_to_write(reason, "cannot keep {} as {}", path.string(), former.string());
    return;
  }
  if (errno == ENOENT) return;
  const bool cannot_link = errno == EPERM || errno == ENOTSUP || errno == ENOSYS || errno == EMLINK;
  if (!cannot_link || std::rename(path.c_str(), former.c_str()) != 0) {
    fail_to_write(errno, "cannot keep {} as {}", path.string(), former.string());
  }
}

}  // namespace

AtomicFile::AtomicFile(std::filesystem::path path) : path_(std::move(path)), partial_(part_of(path_)) {
  // Renaming would put a file in the place of a device or a pipe.
  std::error_code none_yet;
  const std::filesystem::file_status status = std::filesystem::status(path_, none_yet);
  if (std::filesystem::exists(status) && !std::filesystem::is_regular_file(status)) {
    const bool is_folder = std::filesystem::is_directory(status);
    throw WriteError(is_folder ? EISDIR : EEXIST,
                     fmt::format("cannot write {}: it is {}; try another name", path_.string(),
                                 is_folder ? "a folder" : "not a regular file"));
  }
  // A file of its own: what stands under that name is of an earlier process with this number, or a link that somebody
  // left there, which must not lead anywhere.
  const auto make = [&] { return open(partial_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644); };
  descriptor_ = make();
  if (descriptor_ < 0 && errno == EEXIST && unlink(partial_.c_str()) == 0) descriptor_ = make();
  if (descriptor_ < 0) fail_to_write(errno, "cannot write {}", path_.string());
}

AtomicFile::~AtomicFile() {
  if (descriptor_ >= 0) close(descriptor_);
  if (!committed_) unlink(partial_.c_str());
}

void AtomicFile::write(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t written = uninterrupted([&] { return ::write(descriptor_, bytes.data(), bytes.size()); });
    if (written <= 0) fail_to_write(written < 0 ? errno : EIO, "cannot write {}", partial_.string());
    bytes = bytes.subspan(static_cast<std::size_t>(written));
  }
}

void AtomicFile::write(std::string_view text) { write(std::as_bytes(std::span(text.data(), text.size()))); }

void AtomicFile::overwrite(std::uint64_t offset, std::span<const std::byte> bytes) {
  if (write_at(descriptor_, bytes, offset) < bytes.size()) fail_to_write(errno, "cannot write {}", partial_.string());
}

void AtomicFile::commit(const std::filesystem::path& former) {
  if (uninterrupted([&] { return fsync(descriptor_); }) != 0)
    fail_to_write(errno, "cannot write {} to the disk", partial_.string());
  const int closed = close(std::exchange(descriptor_, -1));
  if (closed != 0 && errno != EINTR) fail_to_write(errno, "cannot write {}", partial_.string());
  if (!former.empty()) keep_as(path_, former);
  if (std::rename(partial_.c_str(), path_.c_str()) != 0) {
    const int reason = errno;
    unlink(partial_.c_str());
    fail_to_write(reason, "cannot write {}", path_.string());
  }
  committed_ = true;
  sync_folder_of(path_);
}

AppendedFile::AppendedFile(std::filesystem::path path)
    : path_(std::move(path)), descriptor_(open(path_.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0644)) {
  if (descriptor_ < 0) fail_to_write(errno, "cannot write {}", path_.string());
  const off_t end = lseek(descriptor_, 0, SEEK_END);
  if (end < 0) {
    const int reason = errno;
    close(descriptor_);
    fail_to_write(reason, "cannot write {}", path_.string());
  }
  synced_bytes_ = static_cast<std::uint64_t>(end);
}

AppendedFile::~AppendedFile() {
  write_tail();
  close(descriptor_);
}

bool AppendedFile::failed(const char* what, int reason) {
  trouble_ = fmt::format("{} {}: {}", what, path_.string(), std::strerror(reason));
  return false;
}

bool AppendedFile::write_tail() {
  const std::span<const char> rest = std::span(tail_).subspan(written_bytes_);
  const std::size_t written = write_at(descriptor_, std::as_bytes(rest), synced_bytes_ + written_bytes_);
  written_bytes_ += written;
  if (written < rest.size()) return failed("cannot write", errno);
  trouble_.clear();
  return true;
}

bool AppendedFile::append(std::string_view text) {
  tail_ += text;
  return write_tail();
}

bool AppendedFile::sync() {
  if (tail_.empty()) return true;
  if (!write_tail()) return false;
  if (uninterrupted([&] { return fsync(descriptor_); }) != 0) {
    const int reason = errno;
    written_bytes_ = 0;
    return failed("cannot write to the disk", reason);
  }
  synced_bytes_ += tail_.size();
  tail_.clear();
  written_bytes_ = 0;
  return true;
}

void make_output_folder(const std::filesystem::path& path) {
  std::error_code error;
  std::filesystem::create_directories(path, error);
  require(!error, "file", "cannot make the folder {}: {}; try another name", path.string(), error.message());
  { const AtomicFile trial(path / "trial"); }  // goes away by itself
  sync_folder_of(path);
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

std::string why_no_file(const std::filesystem::path& path) {
  std::error_code error;
  const std::filesystem::file_status status = std::filesystem::status(path, error);
  if (error) return error.message();
  if (std::filesystem::is_directory(status)) return "it is a folder";
  return std::filesystem::is_regular_file(status) ? "" : "it is not a regular file";
}

bool file_exists(const std::filesystem::path& path) {
  std::error_code error;
  const std::filesystem::file_status status = std::filesystem::status(path, error);
  if (status.type() == std::filesystem::file_type::not_found) return false;
  require(!error, "file", "cannot read {}: {}", path.string(), error.message());
  return true;
}

std::string read_text_file(const std::filesystem::path& path, std::size_t most_bytes) {
  std::error_code ignored;
  require(!std::filesystem::is_directory(path, ignored), "file", "cannot read {}: it is a folder", path.string());
  std::ifstream file(path, std::ios::binary);
  require(file.good(), "file", "cannot read {}: {}", path.string(), std::strerror(errno));
  std::string text;
  std::vector<char> piece(std::size_t{1} << 16);
  while (file.read(piece.data(), static_cast<std::streamsize>(piece.size())) || file.gcount() > 0) {
    text.append(piece.data(), static_cast<std::size_t>(file.gcount()));
    require(text.size() <= most_bytes, "file", "{} is too large; got more than {} bytes, expected at most as many",
            path.string(), most_bytes);
  }
  require(!file.bad(), "file", "cannot read {}: {}", path.string(), std::strerror(errno));
  return text;
}

LineReader::LineReader(const std::filesystem::path& path, std::uintmax_t begin)
    : path_(path), buffer_(kMostBytes + 1), position_(begin) {
  const std::string obstacle = why_no_file(path_);
  require(obstacle.empty(), "file", "cannot read {}: {}", path_.string(), obstacle);
  file_.open(path_, std::ios::binary);
  require(file_.good(), "file", "cannot read {}: {}", path_.string(), std::strerror(errno));
  file_.seekg(static_cast<std::streamoff>(begin));
}

bool LineReader::next(std::string& line) {
  file_.getline(buffer_.data(), static_cast<std::streamsize>(buffer_.size()));
  std::streamsize taken = file_.gcount();
  require(!file_.bad(), "file", "cannot read {}: {}", path_.string(), std::strerror(errno));
  if (taken == 0) return false;
  is_cut_ = file_.fail();
  has_end_ = !is_cut_ && !file_.eof();
  line.assign(buffer_.data(), static_cast<std::size_t>(taken - (has_end_ ? 1 : 0)));
  if (is_cut_) {  // the rest is passed over
    file_.clear();
    file_.ignore(std::numeric_limits<std::streamsize>::max(), '\n');
    require(!file_.bad(), "file", "cannot read {}: {}", path_.string(), std::strerror(errno));
    taken += file_.gcount();
    has_end_ = !file_.eof();
  }
  position_ += static_cast<std::uintmax_t>(taken);
  return true;
}

}  // namespace dino
