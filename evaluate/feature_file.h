#pragma once

#include "evaluate/features.h"

#include <filesystem>
#include <string>
#include <vector>

namespace dino {

/// How the features of a file were made: what is needed to make those of another picture that can be compared.
struct FeatureRecipe {
  std::string weights;      // path, as it was given
  std::string network;      // teacher or student
  std::string fingerprint;  // weights_fingerprint()
  FeatureOptions options;   // crop, resize, kind and normalisation
};

/// Features of pictures with what they are called.
struct NamedFeatures {
  FeatureTable table;
  std::vector<std::string> names;        // (n) paths
  std::vector<std::string> class_names;  // by label; empty where there are no classes
  FeatureRecipe recipe;
};

/// Writes features as the extension of `path` says, atomically, and returns the files written:
///   .safetensors  `features` (n, C) fp32, `labels` (n) int64 where there are classes; paths, class names (JSON lists)
///                 and the recipe in the metadata. A path that is not UTF-8 is there as escaped_bytes(), and its row in
///                 the list `escaped_paths`. Paths of more than 16 MiB, as a million has, are a tensor `paths` of
///                 the bytes of their JSON instead: readers take no header of 100 MB.
///   .npy          the same array as NumPy's format 1.0, and beside it, as NAME.csv, a line `path,label,class` per row
///                 (paths as in .safetensors)
///   .csv          `path,label,class,f0,f1,…`, numbers in the shortest form that gives the same float again
/// Throws Error for any other extension.
std::vector<std::filesystem::path> write_features(const std::filesystem::path& path, const NamedFeatures& features);

/// The files that write_features() writes for this path.
std::vector<std::filesystem::path> feature_files(const std::filesystem::path& path);

/// Throws Error unless write_features() knows the extension.
void check_feature_path(const std::filesystem::path& path);

/// Reads what write_features() wrote as .safetensors; rows are not checked to be finite. Throws Error, with what to do,
/// for another kind of file.
NamedFeatures read_features(const std::filesystem::path& path);

}  // namespace dino
