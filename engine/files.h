#pragma once

#include "kernels/common/error.h"

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <limits>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace dino {

/// A file could not be written; `reason` is the system's error number. The disk may be full only for a while.
class WriteError : public Error {
 public:
  WriteError(int reason, std::string_view what) : Error("file", what), reason_(reason) {}
  int reason() const { return reason_; }

 private:
  int reason_;
};

/// Writes a file beside its final name and renames it into place on commit(), after syncing it to the disk, so that no
/// half file ever stands under the final name. Without commit() the part written is removed. Throws WriteError with the
/// path and the system's reason, also where the name is taken by a folder, a device or a pipe: those stay as they are.
class AtomicFile {
 public:
  explicit AtomicFile(std::filesystem::path path);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  void write(std::span<const std::byte> bytes);
  void write(std::string_view text);
  /// Writes over what stands at an offset; later writes go on at the end.
  void overwrite(std::uint64_t offset, std::span<const std::byte> bytes);
  /// Puts the file into place. A file that had the name so far gets the name `former` (if not empty) instead of
  /// whatever has that one. At every instant, also where the power fails, each of the two names has a whole file or
  /// `former` has.
  void commit(const std::filesystem::path& former = {});

 private:
  std::filesystem::path path_;
  std::filesystem::path partial_;
  int descriptor_ = -1;
  bool committed_ = false;
};

/// A file that grows at its end. What the disk does not take stays in memory and goes out with what comes next: the
/// file always holds a beginning of all that was appended.
class AppendedFile {
 public:
  /// Goes on after the last byte of a file that exists. Throws WriteError.
  explicit AppendedFile(std::filesystem::path path);
  ~AppendedFile();
  AppendedFile(const AppendedFile&) = delete;
  AppendedFile& operator=(const AppendedFile&) = delete;

  /// Returns false, and says why in trouble(), where not everything could be handed to the system.
  bool append(std::string_view text);
  /// Hands everything to the disk, so that it outlives a power cut. Returns false where that failed.
  bool sync();

  /// The last failure, in one line; empty once everything is written.
  const std::string& trouble() const { return trouble_; }

 private:
  bool write_tail();
  bool failed(const char* what, int reason);

  std::filesystem::path path_;
  int descriptor_ = -1;
  std::uint64_t synced_bytes_ = 0;
  // Kept until a sync succeeds: after one that failed the system has forgotten it.
  std::string tail_;
  std::size_t written_bytes_ = 0;  // of the tail
  std::string trouble_;
};

/// Makes a folder where there is none, with those above it, and tries whether files can be made in it. Throws Error
/// with the path and the system's reason, before work is spent on what could not be kept.
void make_output_folder(const std::filesystem::path& path);

/// Removes the parts of files in a folder that AtomicFile could not finish because its process was killed.
void remove_abandoned_parts(const std::filesystem::path& folder);

/// Why there is no regular file at `path`, links followed: "it is a folder", "it is not a regular file", or the
/// system's reason, which need not be that nothing is there. Empty where there is one.
std::string why_no_file(const std::filesystem::path& path);

/// Is something at `path`, links followed? Throws Error where the system cannot tell: a folder above it may not be
/// searched.
bool file_exists(const std::filesystem::path& path);

inline constexpr std::size_t kMostTextBytes = std::size_t{64} << 20;  // of a text that people or tools write

/// The whole file. Throws Error with the path and the system's reason, and where there is more of it than `most_bytes`:
/// a pipe, or a damaged file, may have no end.
std::string read_text_file(const std::filesystem::path& path,
                           std::size_t most_bytes = std::numeric_limits<std::size_t>::max());

/// A text file line by line. Of a longer line only the first kMostBytes are kept: one without end must not fill the
/// memory.
class LineReader {
 public:
  static constexpr std::size_t kMostBytes = std::size_t{1} << 20;

  /// From byte `begin` on. Throws Error with the path and the system's reason.
  explicit LineReader(const std::filesystem::path& path, std::uintmax_t begin = 0);
  /// Takes the next line, without its end. Returns false after the last one. Throws Error where it cannot be read.
  bool next(std::string& line);
  /// Was there more of that line than kMostBytes?
  bool is_cut() const { return is_cut_; }
  /// Did it end, and not the file within it?
  bool has_end() const { return has_end_; }
  /// The byte at which the next one begins.
  std::uintmax_t position() const { return position_; }

 private:
  std::filesystem::path path_;
  std::ifstream file_;
  std::vector<char> buffer_;
  std::uintmax_t position_;
  bool is_cut_ = false, has_end_ = false;
};

}  // namespace dino
