#pragma once

#include "models/safetensors.h"

#include <filesystem>
#include <vector>

namespace dino {

/// Writes what torch.load(path, weights_only=True) reads as an OrderedDict of contiguous CPU tensors (float32, bfloat16
/// or float16): PyTorch's zip format, its entries uncompressed and their data at multiples of 64 bytes, so that
/// torch.load(mmap=True) works as well. The same arrays give the same bytes. Writes beside `path` and renames. Throws
/// Error when writing fails. Takes the file's size in memory.
void write_torch(const std::filesystem::path& path, const std::vector<NamedArray>& arrays);

}  // namespace dino
