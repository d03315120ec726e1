#include "data/path_list.h"

#include "kernels/common/error.h"

#include <algorithm>
#include <climits>
#include <cstring>

namespace dino {
namespace {

constexpr std::size_t kChunkBytes = std::size_t{1} << 20;
static_assert(PATH_MAX < kChunkBytes);

}  // namespace

void PathList::add(std::string_view path, std::int32_t label) {
  require(path.size() < PATH_MAX, "data", "a path is too long; got {} bytes, expected fewer than {}", path.size(),
          PATH_MAX);
  const std::size_t slash = path.rfind('/');
  const std::string_view folder = path.substr(0, slash == std::string_view::npos ? 0 : slash + 1);
  const std::string_view name = path.substr(folder.size());
  // Pictures of one folder mostly come in a row.
  if (folders_.empty() || folders_[last_folder_] != folder) {
    const auto [at, added] = folder_numbers_.emplace(std::string(folder), static_cast<std::uint32_t>(folders_.size()));
    if (added) folders_.emplace_back(folder);
    last_folder_ = at->second;
  }
  if (chunks_.empty() || kChunkBytes - chunk_used_ <= name.size()) {
    chunks_.push_back(std::make_unique_for_overwrite<char[]>(kChunkBytes));
    chunk_used_ = 0;
  }
  entries_.push_back({(chunks_.size() - 1) * kChunkBytes + chunk_used_, last_folder_, label});
  char* to = chunks_.back().get() + chunk_used_;
  if (!name.empty()) std::memcpy(to, name.data(), name.size());
  to[name.size()] = '\0';
  chunk_used_ += name.size() + 1;
}

std::string PathList::operator[](std::int64_t index) const {
  const Entry& entry = entries_[static_cast<std::size_t>(index)];
  std::string path = folders_[entry.folder];
  path += name(entry);
  return path;
}

void PathList::erase(std::int32_t label) {
  std::erase_if(entries_, [&](const Entry& entry) { return entry.label == label; });
}

void PathList::sort() {
  std::sort(entries_.begin(), entries_.end(), [this](const Entry& a, const Entry& b) { return before(a, b); });
}

std::string_view PathList::name(const Entry& entry) const {
  return chunks_[entry.name / kChunkBytes].get() + entry.name % kChunkBytes;
}

/// Compares whole paths without putting them together.
bool PathList::before(const Entry& a, const Entry& b) const {
  if (a.label != b.label) return a.label < b.label;
  if (a.folder == b.folder) return name(a) < name(b);
  const std::string_view first = folders_[a.folder];
  const std::string_view second = folders_[b.folder];
  const std::size_t common = std::min(first.size(), second.size());
  if (const int order = first.substr(0, common).compare(second.substr(0, common)); order != 0) return order < 0;
  // One folder lies in the other. What is left of the deeper one has a slash, which no name has, so they differ.
  return first.size() < second.size() ? name(a) < second.substr(common) : first.substr(common) < name(b);
}

}  // namespace dino
