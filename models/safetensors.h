#pragma once

#include "kernels/common/aligned_buffer.h"
#include "kernels/common/array.h"

#include <filesystem>
#include <map>
#include <string>
#include <vector>

namespace dino {

/// A .safetensors file in memory (https://github.com/huggingface/safetensors: 8-byte little-endian header length, JSON
/// header, data). Reading checks everything that the format promises - header length, element types, offsets inside
/// the data, no overlap, sizes that agree with shapes - and throws Error, naming the file and the tensor, where it
/// fails.
class SafetensorsFile {
 public:
  static SafetensorsFile read(const std::filesystem::path& path);

  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  /// Metadata value; throws Error naming the key when it is missing.
  const std::string& metadata(const std::string& key) const;
  /// In the order of their data.
  const std::vector<std::string>& names() const { return names_; }
  bool contains(const std::string& name) const { return arrays_.contains(name); }
  /// Throws Error when there is no such tensor. Points into this object.
  ConstArray operator[](const std::string& name) const;

 private:
  std::filesystem::path path_;
  AlignedBuffer bytes_;
  std::map<std::string, std::string> metadata_;
  std::map<std::string, ConstArray> arrays_;
  std::vector<std::string> names_;
};

struct NamedArray {
  std::string name;
  ConstArray array;  // on the host
};

/// Writes beside `path` and renames, so that no half file ever has the name. Throws Error when writing fails.
void write_safetensors(const std::filesystem::path& path, const std::vector<NamedArray>& arrays,
                       const std::map<std::string, std::string>& metadata = {});

}  // namespace dino
