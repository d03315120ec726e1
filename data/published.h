#pragma once

#include "data/download.h"

#include <span>
#include <string_view>

namespace dino {

/// A data set that somebody publishes as one archive.
struct PublishedDataset {
  std::string name;           // what the command line calls it
  std::string title;          // what it is, in a line
  std::string terms;          // what is known of its licence
  std::string url;            // of the archive: .zip or .tar.gz
  std::string md5;            // of the archive, as its publisher gives it or as others have long recorded it
  std::int64_t bytes = 0;     // of the archive; 0: unknown
  std::string folder;         // where the archive keeps everything
  std::int64_t pictures = 0;  // of the train split; 0: any number
  std::int64_t val_pictures = 0;
  std::string config;  // the configuration made for it
};

/// The data sets that `dino_cuda data get` knows.
std::span<const PublishedDataset> published_datasets();

struct FetchOptions {
  std::filesystem::path output = "data_sets";  // the set becomes a folder in it
  std::string from;                            // a local archive, or a URL instead of the published one; empty: that
  bool keep_archive = false;                   // else a downloaded archive is removed when it is unpacked
};

struct FetchedDataset {
  std::filesystem::path folder;
  bool was_there = false;  // and whole, so nothing was done
  std::int64_t pictures = 0;
  std::int64_t val_pictures = 0;
  std::int64_t classes = 0;
};

/// As ByteProgress, with the name of the step: "downloading", "checking", "unpacking".
using FetchProgress = std::function<void(std::string_view step, std::int64_t done, std::int64_t total)>;

/// Gets the archive, checks its MD5 sum, unpacks it and opens what came out; the folder appears under its name when all
/// of that went well, and one that exists is never touched. On the way there stand in `output`:
///   ARCHIVE.part         what has been downloaded so far; the next call continues it
///   .FOLDER.unpacking    removed on failure, or by the next call where the program was killed
///   ARCHIVE.bad          a download with the wrong sum
/// A local archive is left as it is. Throws Error.
FetchedDataset fetch_dataset(const PublishedDataset& dataset, const FetchOptions& options,
                             const FetchProgress& progress = {});

}  // namespace dino
