#pragma once

#include "kernels/common/array.h"

#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace dino {

struct StoredTensor {
  std::string name;
  Shape shape;
  DType dtype;
};

/// The tensors of a file, read one by one when they are asked for.
class TensorSource {
 public:
  virtual ~TensorSource() = default;
  TensorSource(const TensorSource&) = delete;
  TensorSource& operator=(const TensorSource&) = delete;

  const std::vector<StoredTensor>& tensors() const { return tensors_; }
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  /// The files that they are read from, an index included.
  const std::vector<std::filesystem::path>& files() const { return files_; }
  /// Elements of tensors()[index] in row-major order, as fp32. `to` has their number.
  virtual void read(std::size_t index, std::span<float> to) = 0;

 protected:
  TensorSource() = default;
  std::vector<StoredTensor> tensors_;
  std::map<std::string, std::string> metadata_;
  std::vector<std::filesystem::path> files_;
};

/// Recognises the file by its first bytes: .safetensors, or what torch.save writes, in its zip format and its old one.
/// A `*.index.json` stands for the files that it names, and a folder for the model.safetensors or pytorch_model.bin in
/// it, or their index. Throws Error, naming the file, when it is none of them or is damaged.
std::unique_ptr<TensorSource> open_tensors(const std::filesystem::path& path);

std::unique_ptr<TensorSource> open_safetensors(const std::filesystem::path& path);

/// The files beside an index (Hugging Face: `{"weight_map": {tensor: file}}`) as one. Throws Error when the index names
/// a file elsewhere, or when it and the files disagree about which tensor lies where.
std::unique_ptr<TensorSource> open_sharded(const std::filesystem::path& index);

/// `n` elements of any floating-point or integer type as fp32. `from` need not be aligned.
void convert_to_float(const std::byte* from, DType dtype, std::size_t n, float* to);

/// `n` fp32 numbers as float32, bfloat16 or float16, rounded to nearest, ties to even. What is too large for float16
/// becomes infinite. `to` need not be aligned. Throws Error for any other type.
void convert_from_float(const float* from, std::size_t n, DType dtype, std::byte* to);

}  // namespace dino
