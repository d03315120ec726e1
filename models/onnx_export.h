#pragma once

#include "models/weights_file.h"

#include <filesystem>

namespace dino {

/// Writes the backbone as an ONNX model (opset 17, IR version 8), atomically:
///   images (batch, 3, height, width) float32, normalised with ImageNet's mean and deviation, sides multiples of the
///   patch
///   → cls (batch, C), patch_tokens (batch, N, C): after the final norm, patches row by row
///     attention (batch, H, 1+N, 1+N): of the last block, as the official get_last_selfattention()
/// Batch and both sides are free. The position embedding is resized in the graph as in training: bicubic (a = -0.75)
/// with the scale (n + 0.1) / M per axis that is computed from the input's shape; its own grid is left as it is.
/// Computes in float32; with a `dtype` of float16 or bfloat16 the weights are stored so and widened when they are used.
/// Throws Error when the weights are missing, when the model would exceed the 2 GB of a protobuf message, or when
/// writing fails.
void write_onnx(const WeightsFile& file, const std::filesystem::path& path, DType dtype);

}  // namespace dino
