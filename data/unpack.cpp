#include "data/unpack.h"

#include "kernels/common/error.h"

#include <archive.h>
#include <archive_entry.h>
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>
#include <string_view>
#include <vector>

namespace dino {

namespace fs = std::filesystem;

namespace {

constexpr std::size_t kBlockBytes = std::size_t{256} << 10;

struct CloseArchive {
  void operator()(archive* a) const { archive_read_free(a); }
};

/// What libarchive says, in one piece.
std::string reason(archive* a) {
  const char* text = archive_error_string(a);
  return text == nullptr ? "it is damaged or truncated" : text;
}

/// The name of an entry as a relative path without "." and empty parts; refuses what could lead elsewhere.
fs::path safe_path(archive_entry* entry, const fs::path& archive_path) {
  const char* text = archive_entry_pathname(entry);
  require(text != nullptr, "unpack", "{} holds a name that cannot be read; refused", archive_path.string());
  std::string_view rest = text;
  require(!rest.starts_with('/'), "unpack", "{} holds the absolute name {}; refused", archive_path.string(), text);
  fs::path path;
  while (!rest.empty()) {
    const std::size_t end = std::min(rest.find('/'), rest.size());
    const std::string_view part = rest.substr(0, end);
    rest.remove_prefix(std::min(end + 1, rest.size()));
    require(part != "..", "unpack", "{} holds the name {}, which leads out of its folder; refused",
            archive_path.string(), text);
    if (!part.empty() && part != ".") path /= part;
  }
  return path;
}

/// A new file; never one that exists, and never through a link.
class NewFile {
 public:
  explicit NewFile(const fs::path& path)
      : path_(path), descriptor_(open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644)) {
    require(descriptor_ >= 0, "unpack", "cannot write {}: {}", path.string(), std::strerror(errno));
  }
  ~NewFile() {
    if (descriptor_ >= 0) close(descriptor_);
  }
  NewFile(const NewFile&) = delete;
  NewFile& operator=(const NewFile&) = delete;

  void write(const char* bytes, std::size_t size) {
    while (size > 0) {
      const ssize_t written = ::write(descriptor_, bytes, size);
      if (written < 0 && errno == EINTR) continue;
      require(written > 0, "unpack", "cannot write {}: {}", path_.string(), std::strerror(written < 0 ? errno : EIO));
      bytes += written;
      size -= static_cast<std::size_t>(written);
    }
  }

  void finish() {
    const int closed = close(descriptor_);
    descriptor_ = -1;
    require(closed == 0, "unpack", "cannot write {}: {}", path_.string(), std::strerror(errno));
  }

 private:
  fs::path path_;
  int descriptor_;
};

void unpack_entries(const fs::path& archive_path, const fs::path& folder, const ByteProgress& progress,
                    const UnpackLimits& limits) {
  const std::unique_ptr<archive, CloseArchive> owner(archive_read_new());
  archive* a = owner.get();
  require(a != nullptr, "unpack", "there is no memory to read {}", archive_path.string());
  archive_read_support_filter_gzip(a);
  archive_read_support_format_tar(a);
  archive_read_support_format_zip(a);
  const bool opened = archive_read_open_filename(a, archive_path.c_str(), kBlockBytes) == ARCHIVE_OK;
  require(opened, "unpack", "cannot read {}: {}; expected a .zip or .tar.gz", archive_path.string(), reason(a));
  const auto total = static_cast<std::int64_t>(fs::file_size(archive_path));
  std::vector<char> block(kBlockBytes);
  std::int64_t unpacked_bytes = 0;
  std::int64_t entries = 0;
  std::int64_t done = 0;
  // Zip files are read from their table at the end on, so the position may also go back.
  const auto report = [&] {
    done = std::max(done, std::min<std::int64_t>(archive_filter_bytes(a, -1), total - 1));
    if (progress) progress(done, total);
  };
  archive_entry* entry = nullptr;
  for (int status = 0; (status = archive_read_next_header(a, &entry)) != ARCHIVE_EOF; report()) {
    require(status == ARCHIVE_OK || status == ARCHIVE_WARN, "unpack", "cannot unpack {}: {}", archive_path.string(),
            reason(a));
    require(++entries <= limits.entries, "unpack", "{} holds more than {} files; refused", archive_path.string(),
            limits.entries);
    const fs::path name = safe_path(entry, archive_path);
    const bool link = archive_entry_hardlink(entry) != nullptr || archive_entry_symlink(entry) != nullptr;
    const auto type = archive_entry_filetype(entry);
    require(!link && (type == AE_IFREG || type == AE_IFDIR), "unpack",
            "{} holds {}, which is no file or folder but {}; refused", archive_path.string(), name.string(),
            link || type == AE_IFLNK ? "a link" : "a device or pipe");
    const fs::path path = folder / name;
    if (type == AE_IFDIR) {
      fs::create_directories(path);
      continue;
    }
    fs::create_directories(path.parent_path());
    NewFile file(path);
    while (true) {
      const la_ssize_t bytes = archive_read_data(a, block.data(), block.size());
      require(bytes >= 0, "unpack", "cannot unpack {} from {}: {}", name.string(), archive_path.string(), reason(a));
      if (bytes == 0) break;
      unpacked_bytes += bytes;
      require(unpacked_bytes <= limits.bytes, "unpack", "{} unpacks to more than {} bytes; refused",
              archive_path.string(), limits.bytes);
      file.write(block.data(), static_cast<std::size_t>(bytes));
      report();
    }
    file.finish();
  }
  require(entries > 0, "unpack", "{} is empty; expected a .zip or .tar.gz", archive_path.string());
  if (progress) progress(total, total);
}

}  // namespace

void unpack_archive(const fs::path& archive, const fs::path& folder, const ByteProgress& progress,
                    const UnpackLimits& limits) {
  std::error_code error;
  const bool made = fs::create_directory(folder, error);
  require(made, "unpack", "cannot make the folder {}: {}", folder.string(), error ? error.message() : "it exists");
  try {
    unpack_entries(archive, folder, progress, limits);
  } catch (const fs::filesystem_error& failure) {
    fs::remove_all(folder, error);
    fail("unpack", "cannot unpack {} into {}: {}", archive.string(), folder.string(), failure.code().message());
  } catch (...) {
    fs::remove_all(folder, error);
    throw;
  }
}

}  // namespace dino
