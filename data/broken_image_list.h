#pragma once

#include "data/loader.h"

#include <cstddef>
#include <filesystem>
#include <set>
#include <string>

namespace dino {

/// The file in which a run lists its broken pictures, each once: a JSON object a line, with `picture` (its number),
/// `name` (printable()) and `reason`. Made with the first of them.
class BrokenImageList {
 public:
  /// `keep`: the lines of the run that goes on stay; else there is no such file at first. Throws Error.
  BrokenImageList(std::filesystem::path path, bool keep);

  /// Nothing when it cannot be written: a full disk must not stop what goes on without the list. Not by several threads
  /// at once.
  void add(const BrokenImage& image);

 private:
  std::filesystem::path path_;
  std::set<std::size_t> listed_;  // hashes of names
};

}  // namespace dino
