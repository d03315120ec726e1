#pragma once

#include "data/image_source.h"
#include "data/loader.h"
#include "models/vit.h"
#include "models/weights_file.h"

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace dino {

struct FeatureOptions {
  int crop_px = 224;        // side of the centre crop; a multiple of the patch size
  int short_side_px = 256;  // the picture is first resized (bicubic) to this short side
  int batch = 32;
  int threads = 0;  // that decode; 0: one per processor

  /// The official proportions, 256 to 224, for a network whose native side is `image_px`.
  static FeatureOptions for_image_size(int image_px);
};

/// One row per picture that could be read, in the order of the data set.
struct FeatureTable {
  std::int64_t width = 0;            // C
  std::vector<float> values;         // (n, C), each row of length 1
  std::vector<std::int32_t> labels;  // (n), -1 where unknown
  BrokenImages broken;               // those left out

  std::int64_t rows() const { return static_cast<std::int64_t>(labels.size()); }
  ConstArray array() const { return {values.data(), DType::float32, Shape{rows(), width}}; }
};

/// Called now and then with the pictures done so far, their number and the seconds spent waiting for data.
using FeatureProgress = std::function<void(std::int64_t done, std::int64_t total, double wait_s)>;

/// CLS features of every picture, L2-normalised. Throws Error where none can be read.
FeatureTable extract_features(Context& context, const Vit& vit, const ParameterStore& store, Network network,
                              const ImageSource& images, const FeatureOptions& options,
                              const FeatureProgress& progress = {});

/// One line about the pictures that were left out: how many, and the first of them with its reason. Empty: none were.
std::string describe_broken(const FeatureTable& table);

/// The pixels themselves as features: `side_px` × `side_px` after the centre crop, mean removed, L2-normalised. What a
/// network has to beat. Throws Error where no picture can be read.
FeatureTable pixel_features(const ImageSource& images, int side_px, int threads = 0,
                            const FeatureProgress& progress = {});

}  // namespace dino
