// IDX files as MNIST and Fashion-MNIST use them: 00 00 08 and the number of dimensions, each dimension as a big-endian
// 32-bit number, the bytes (http://yann.lecun.com/exdb/mnist). Also compressed with gzip.
#include "data/known_datasets.h"
#include "data/verify_checksums.h"
#include "engine/files.h"
#include "kernels/common/error.h"

#include <algorithm>
#include <optional>
#include <system_error>

#include <zlib.h>

namespace dino {

namespace fs = std::filesystem;

namespace {

std::uint32_t byte_at(std::string_view bytes, std::size_t at) {
  return at < bytes.size() ? static_cast<unsigned char>(bytes[at]) : 0u;
}

/// Content of a gzip file of one member (RFC 1952).
std::string gunzip(const std::string& bytes, const fs::path& path) {
  constexpr std::size_t kLeastBytes = 18;
  constexpr std::uint64_t kBestRatio = 1032;  // of deflate: a larger claim is a lie
  require(bytes.size() > kLeastBytes, "data", "{} is truncated; download it again", path.string());
  std::uint64_t size = 0;
  for (std::size_t i = 1; i <= 4; ++i) size = size << 8 | byte_at(bytes, bytes.size() - i);
  require(size <= bytes.size() * kBestRatio && size <= INT32_MAX && bytes.size() <= INT32_MAX, "data",
          "{} is damaged or truncated; download it again", path.string());
  std::string content(size, '\0');
  z_stream stream{};
  constexpr int kGzip = 16;
  require(inflateInit2(&stream, kGzip + MAX_WBITS) == Z_OK, "data", "{}: no memory to inflate it", path.string());
  if (!kVerifyChecksums) inflateValidate(&stream, 0);
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(bytes.data()));  // not written to
  stream.avail_in = static_cast<uInt>(bytes.size());
  stream.next_out = reinterpret_cast<Bytef*>(content.data());
  stream.avail_out = static_cast<uInt>(size);
  const int status = inflate(&stream, Z_FINISH);
  const bool whole = status == Z_STREAM_END && stream.avail_out == 0;
  inflateEnd(&stream);
  require(whole, "data", "{} is damaged or truncated; download it again", path.string());
  return content;
}

struct Idx {
  std::vector<std::int64_t> sizes;
  std::string bytes;
};

/// Throws Error unless the file is an IDX of bytes with `dimensions` dimensions.
Idx read_idx(const fs::path& path, std::size_t dimensions) {
  Idx idx;
  idx.bytes = read_text_file(path);
  if (std::string_view(idx.bytes).starts_with("\x1f\x8b")) idx.bytes = gunzip(idx.bytes, path);
  const std::string_view bytes = idx.bytes;
  require(bytes.size() >= 4 + 4 * dimensions && byte_at(bytes, 0) == 0 && byte_at(bytes, 1) == 0 &&
              byte_at(bytes, 2) == 8 && byte_at(bytes, 3) == dimensions,
          "data", "{} is not an IDX file of bytes with {} dimensions", path.string(), dimensions);
  const std::size_t header_bytes = 4 + 4 * dimensions;
  const auto available = static_cast<std::int64_t>(bytes.size() - header_bytes);
  std::int64_t count = 1;
  for (std::size_t d = 0; d < dimensions; ++d) {
    std::int64_t size = 0;
    for (std::size_t i = 0; i < 4; ++i) size = size << 8 | byte_at(bytes, 4 + 4 * d + i);
    idx.sizes.push_back(size);
    // Stops before it can overflow.
    count = size > 0 && count <= available ? count * size : (size == 0 ? 0 : available + 1);
  }
  require(count == available && count > 0, "data", "{} is truncated or damaged; its header and its {} bytes disagree",
          path.string(), available);
  return idx;
}

/// The file in `folder` called PREFIX{-,.}idxNN-ubyte, plain or .gz.
std::optional<fs::path> find_idx(const fs::path& folder, std::string_view prefix, std::string_view kind) {
  std::error_code ignored;
  for (const char* separator : {"-", "."}) {
    for (const char* ending : {"", ".gz"}) {
      fs::path path = folder / fmt::format("{}{}{}-ubyte{}", prefix, separator, kind, ending);
      if (fs::is_regular_file(path, ignored)) return path;
    }
  }
  return std::nullopt;
}

std::unique_ptr<Dataset> open_pair(const fs::path& images_path, const std::optional<fs::path>& labels_path) {
  const Idx images = read_idx(images_path, 3);
  constexpr std::int64_t kMaxSide = 1 << 15;
  require(images.sizes[1] <= kMaxSide && images.sizes[2] <= kMaxSide, "data", "{}: pictures of {}×{} are too large",
          images_path.string(), images.sizes[2], images.sizes[1]);
  MemoryDataset::Content content{.height = static_cast<int>(images.sizes[1]),
                                 .width = static_cast<int>(images.sizes[2]),
                                 .name = images_path.string()};
  const std::string_view pixels = std::string_view(images.bytes).substr(16);
  content.pixels.assign(pixels.begin(), pixels.end());
  if (labels_path) {
    const Idx labels = read_idx(*labels_path, 1);
    require(labels.sizes[0] == images.sizes[0], "data", "{} has {} labels for {} pictures", labels_path->string(),
            labels.sizes[0], images.sizes[0]);
    std::int32_t largest = 0;
    for (const char value : std::string_view(labels.bytes).substr(8)) {
      content.labels.push_back(static_cast<unsigned char>(value));
      largest = std::max(largest, content.labels.back());
    }
    for (std::int32_t label = 0; label <= largest; ++label) content.class_names.push_back(std::to_string(label));
  }
  return std::make_unique<MemoryDataset>(std::move(content));
}

}  // namespace

std::unique_ptr<Dataset> open_idx(const fs::path& path, const DatasetOptions& options) {
  std::error_code ignored;
  if (fs::is_regular_file(path, ignored)) {
    const std::string name = path.filename().string();
    const std::size_t at = name.find("images");
    if (at == std::string::npos || name.find("idx3-ubyte") == std::string::npos) return nullptr;
    const std::string prefix = name.substr(0, at) + "labels";
    return open_pair(path, find_idx(path.parent_path(), prefix, "idx1"));
  }
  const auto train = find_idx(path, "train-images", "idx3");
  const auto test = find_idx(path, "t10k-images", "idx3");
  if (!train && !test) return nullptr;
  const auto& images = options.split == "train" ? train : test;
  require(images.has_value(), "data", "{} has no split \"{}\"; expected {}-images-idx3-ubyte", path.string(),
          options.split, options.split == "train" ? "train" : "t10k");
  return open_pair(*images, find_idx(path, options.split == "train" ? "train-labels" : "t10k-labels", "idx1"));
}

}  // namespace dino
