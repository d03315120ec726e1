#pragma once

#include "models/weights_file.h"

#include <filesystem>
#include <optional>
#include <string_view>
#include <vector>

namespace dino {

/// The forms that other programs expect weights in.
enum class WeightsForm {
  official,      // the official DINO backbone: bare names
  timm,          // timm's vit_*.dino: the same names
  hugging_face,  // a folder for transformers' ViTModel: model.safetensors, config.json, preprocessor_config.json
  dino_cuda,     // this program's: `backbone.…`, and `head.…` where the file has it
  onnx           // the network itself, see onnx_export.h
};

/// `official`, `timm`, `hf`, `dino_cuda`, `onnx`. Throws Error for any other name.
WeightsForm weights_form(std::string_view name);

/// The element type in which weights are written unless another one is asked for: the file's own where that is
/// float32, float16 or bfloat16, else float32.
DType natural_dtype(const WeightsFile& file);

/// The files that write_weights() would write. Throws Error when the form has no such file: hugging_face takes a
/// folder, onnx a name that ends with .onnx, the others .safetensors, or .pth, .pt or .bin for what torch.load reads.
std::vector<std::filesystem::path> export_paths(const std::filesystem::path& out, WeightsForm form);

/// Writes the backbone (and, as dino_cuda, the head), each file atomically, the weights last. The same input gives the
/// same bytes. Throws WeightsMismatch when the file does not hold exactly one network (see WeightsFile::require_fit),
/// and Error when a value is not finite in `dtype`, naming its tensor, or when writing fails.
void write_weights(const WeightsFile& file, const std::filesystem::path& out, WeightsForm form, DType dtype);

/// Reads `out` back and throws Error unless every tensor of the network has exactly the values of `file`, rounded to
/// `dtype`. Not for onnx.
void require_same_weights(const WeightsFile& file, const WeightsFile& out, DType dtype);

}  // namespace dino
