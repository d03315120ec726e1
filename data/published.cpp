#include "data/published.h"

#include "data/dataset.h"
#include "data/unpack.h"
#include "engine/files.h"
#include "engine/folder_lock.h"
#include "kernels/common/error.h"

#include <algorithm>
#include <array>

namespace dino {

namespace fs = std::filesystem;

namespace {

/// A folder that is removed in the end.
class Staging {
 public:
  explicit Staging(fs::path path) : path_(std::move(path)) { remove(); }
  ~Staging() { remove(); }
  Staging(const Staging&) = delete;
  Staging& operator=(const Staging&) = delete;
  const fs::path& path() const { return path_; }

 private:
  void remove() const {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  fs::path path_;
};

bool present(const fs::path& path) { return fs::exists(fs::symlink_status(path)); }

/// What stands in `folder`; throws Error where it is not the whole set.
FetchedDataset inspect(const PublishedDataset& dataset, const fs::path& folder) {
  const auto train = open_dataset(folder, {.split = "train"});
  const auto val = open_dataset(folder, {.split = "val"});
  const auto check = [](std::string_view split, std::int64_t found, std::int64_t expected) {
    require(expected == 0 || found == expected, "data", "got {} pictures in the {} split, expected {}", found, split,
            expected);
  };
  check("train", train->size(), dataset.pictures);
  check("val", val->size(), dataset.val_pictures);
  return {.folder = folder,
          .was_there = true,
          .pictures = train->size(),
          .val_pictures = val->size(),
          .classes = static_cast<std::int64_t>(train->class_names().size())};
}

ByteProgress step(const FetchProgress& progress, std::string_view name) {
  if (!progress) return {};
  return [&progress, name](std::int64_t done, std::int64_t total) { progress(name, done, total); };
}

/// The checked archive in `output`, as ARCHIVE.part.
fs::path download_archive(const PublishedDataset& dataset, const FetchOptions& options, const fs::path& archive,
                          const FetchProgress& progress) {
  fs::path part = archive;
  part += ".part";
  const std::string& url = options.from.empty() ? dataset.url : options.from;
  download(url, part, dataset.bytes, step(progress, "downloading"));
  const std::string md5 = md5_of_file(part, step(progress, "checking"));
  if (md5 != dataset.md5) {
    fs::path bad = archive;
    bad += ".bad";
    fs::rename(part, bad);
    fail("data",
         "{} has the wrong checksum; got MD5 {}, expected {}; it is kept as {}, not unpacked; try again, or "
         "fetch it elsewhere and pass --from FILE",
         url, md5, dataset.md5, bad.string());
  }
  return part;
}

void check_archive(const PublishedDataset& dataset, const fs::path& archive, const FetchProgress& progress) {
  const std::string md5 = md5_of_file(archive, step(progress, "checking"));
  require(md5 == dataset.md5, "data",
          "{} has the wrong checksum; got MD5 {}, expected {}; it is not unpacked; try to fetch it again from {}",
          archive.string(), md5, dataset.md5, dataset.url);
}

FetchedDataset fetch(const PublishedDataset& dataset, const FetchOptions& options, const FetchProgress& progress) {
  const fs::path target = options.output / dataset.folder;
  fs::create_directories(options.output);
  const FolderLock lock(options.output);
  // Where there are no locks it is the user who must not start it twice.
  require(lock.state() != FolderLock::State::taken, "data",
          "another data get is at work in {}: {}; try when it has ended, or another --output", options.output.string(),
          lock.holder());
  if (present(target)) {
    try {
      return inspect(dataset, target);
    } catch (const Error& error) {
      fail("data", "{} exists, but is not all of {}: {}; remove or rename it, or try another --output", target.string(),
           dataset.name, error.what());
    }
  }
  fs::path archive = options.output / dataset.url.substr(dataset.url.rfind('/') + 1);
  const bool local = !options.from.empty() && !is_url(options.from);
  const bool kept = !local && present(archive);
  if (local) {
    archive = options.from;
    const std::string obstacle = why_no_file(archive);
    require(obstacle.empty(), "data", "cannot read {}: {}; expected an archive or a URL for --from", archive.string(),
            obstacle);
  }
  const bool downloads = !local && !kept;
  const fs::path source = downloads ? download_archive(dataset, options, archive, progress) : archive;
  if (!downloads) check_archive(dataset, source, progress);

  const Staging staging(options.output / fmt::format(".{}.unpacking", dataset.folder));
  unpack_archive(source, staging.path(), step(progress, "unpacking"));
  FetchedDataset found;
  try {
    found = inspect(dataset, staging.path() / dataset.folder);
  } catch (const Error& error) {
    fail("data", "{} does not hold {} in a folder {}: {}", source.string(), dataset.name, dataset.folder, error.what());
  }
  // The name must not reach the disk before the content.
  lock.sync();
  require(!present(target), "data", "{} has appeared in the meantime; it is left as it is", target.string());
  fs::rename(staging.path() / dataset.folder, target);
  if (downloads && options.keep_archive) fs::rename(source, archive);
  if (downloads && !options.keep_archive) fs::remove(source);
  found.folder = target;
  found.was_there = false;
  return found;
}

}  // namespace

std::span<const PublishedDataset> published_datasets() {
  static const std::array<PublishedDataset, 2> sets = {{
      {.name = "tiny-imagenet",
       .title = "Tiny ImageNet: 100,000 + 10,000 colour pictures of 64×64 in 200 classes, with boxes",
       .terms = "Stanford CS231n's subset of ImageNet, whose terms allow non-commercial research and education",
       .url = "http://cs231n.stanford.edu/tiny-imagenet-200.zip",
       .md5 = "90528d7ca1a48142e341f4ef8d21d0de",
       .bytes = 248'100'043,
       .folder = "tiny-imagenet-200",
       .pictures = 100'000,
       .val_pictures = 10'000,
       .config = "configs/tiny_imagenet.toml"},
      {.name = "cifar10",
       .title = "CIFAR-10: 50,000 + 10,000 colour pictures of 32×32 in 10 classes, the binary version",
       .terms = "Krizhevsky, Nair and Hinton state no licence; they ask to cite their technical report of 2009",
       .url = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
       .md5 = "c32a1d4ab5d03f1284b67883e8d87530",
       .bytes = 170'052'171,
       .folder = "cifar-10-batches-bin",
       .pictures = 50'000,
       .val_pictures = 10'000,
       .config = "configs/cifar10.toml"},
  }};
  return sets;
}

FetchedDataset fetch_dataset(const PublishedDataset& dataset, const FetchOptions& options,
                             const FetchProgress& progress) {
  const auto is_hex = [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); };
  require(dataset.md5.size() == 32 && std::all_of(dataset.md5.begin(), dataset.md5.end(), is_hex), "data",
          "cannot check against the MD5 sum \"{}\"; expected 32 hexadecimal digits in lower case", dataset.md5);
  try {
    return fetch(dataset, options, progress);
  } catch (const fs::filesystem_error& error) {
    fail("data", "cannot get {} into {}: {}", dataset.name, options.output.string(), error.what());
  }
}

}  // namespace dino
