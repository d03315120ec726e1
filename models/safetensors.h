#pragma once

#include "kernels/common/aligned_buffer.h"
#include "kernels/common/array.h"

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <vector>

namespace dino {

/// A .safetensors file in memory (https://github.com/huggingface/safetensors: 8-byte little-endian header length, JSON
/// header, data). Reading checks everything that the format promises - header length, element types, offsets inside
/// the data, no overlap, no gap (which a name given twice leaves), sizes that agree with shapes - and the checksum,
/// where write_safetensors put one in; it throws Error, naming the file and the tensor, where it fails.
class SafetensorsFile {
 public:
  static SafetensorsFile read(const std::filesystem::path& path);
  /// The same of a file's content, which is copied; `name` stands for the file in messages.
  static SafetensorsFile parse(std::span<const std::byte> bytes, const std::filesystem::path& name);

  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  /// Metadata value; throws Error naming the key when it is missing.
  const std::string& metadata(const std::string& key) const;
  /// In the order of their data.
  const std::vector<std::string>& names() const { return names_; }
  bool contains(const std::string& name) const { return arrays_.contains(name); }
  /// Throws Error when there is no such tensor. Points into this object.
  ConstArray operator[](const std::string& name) const;

 private:
  SafetensorsFile(const std::filesystem::path& path, const std::string& header, AlignedBuffer data);

  std::filesystem::path path_;
  AlignedBuffer bytes_;
  std::map<std::string, std::string> metadata_;
  std::map<std::string, ConstArray> arrays_;
  std::vector<std::string> names_;
};

/// The same file, left on the disk: its header, and its checksum where it has one, are checked at once, as above, and a
/// tensor is in memory when it is read. What takes the file's place meanwhile does not matter.
class SafetensorsReader {
 public:
  explicit SafetensorsReader(const std::filesystem::path& path);

  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  /// Metadata value; throws Error naming the key when it is missing.
  const std::string& metadata(const std::string& key) const;
  /// In the order of their data.
  const std::vector<std::string>& names() const { return names_; }
  bool contains(const std::string& name) const { return tensors_.contains(name); }
  /// These throw Error when there is no such tensor.
  DType dtype(const std::string& name) const { return find(name).dtype; }
  const Shape& shape(const std::string& name) const { return find(name).shape; }
  /// Fills `to`, which has as many bytes as the tensor. Throws Error where the disk does not give them.
  void read(const std::string& name, std::span<std::byte> to);

 private:
  struct Tensor {
    DType dtype;
    Shape shape;
    std::uint64_t begin, end;  // bytes of the file
  };
  const Tensor& find(const std::string& name) const;

  std::filesystem::path path_;
  std::ifstream stream_;
  std::map<std::string, std::string> metadata_;
  std::map<std::string, Tensor> tensors_;
  std::vector<std::string> names_;
};

struct NamedArray {
  std::string name;
  ConstArray array;  // on the host
};

/// A tensor that is fetched when its turn comes, so that not all have to be in memory at once.
struct NamedSource {
  std::string name;
  DType dtype;
  Shape shape;
  std::function<ConstArray()> fetch;  // on the host, and untouched until the next one is fetched
};

struct SafetensorsOptions {
  /// Puts an XXH64 of the whole file, its own 16 digits taken as zeros, into the metadata: `"checksum":"xxh64:…"`.
  bool checksum = false;
  /// The name that a file which had the name so far gets; empty: it goes. See AtomicFile::commit.
  std::filesystem::path former = {};
};

/// Writes beside `path` and renames, so that no half file ever has the name. Throws WriteError when writing fails, and
/// Error where a name is given twice.
void write_safetensors(const std::filesystem::path& path, const std::vector<NamedSource>& sources,
                       const std::map<std::string, std::string>& metadata, const SafetensorsOptions& options = {});
void write_safetensors(const std::filesystem::path& path, const std::vector<NamedArray>& arrays,
                       const std::map<std::string, std::string>& metadata = {});

}  // namespace dino
