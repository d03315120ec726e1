#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>

namespace dino {

/// How far a long work on a file has got: bytes done, and bytes in all (0 where that is not known). What it throws ends
/// the work, which cleans up behind itself.
using ByteProgress = std::function<void(std::int64_t done, std::int64_t total)>;

/// True for http://, https:// and file://, which download() fetches; anything else is a local path.
bool is_url(const std::string& text);

/// Fetches `url` into `file` with curl, else wget, as a process of its own. What `file` holds already is taken as the
/// beginning and continued, also after a broken connection; where the server cannot continue, it starts anew. A file of
/// `total_bytes` (0: unknown) is taken as finished. Throws Error with the tool's own words, or where there is no tool;
/// `file` then keeps what has come so far.
void download(const std::string& url, const std::filesystem::path& file, std::int64_t total_bytes,
              const ByteProgress& progress = {});

/// The MD5 sum of a file as 32 hexadecimal digits in lower case. It tells damage, not malice.
std::string md5_of_file(const std::filesystem::path& file, const ByteProgress& progress = {});

}  // namespace dino
