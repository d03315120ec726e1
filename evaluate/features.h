#pragma once

#include "data/image_source.h"
#include "data/loader.h"
#include "engine/communicator.h"
#include "models/vit.h"
#include "models/weights_file.h"

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace dino {

/// Which of a network's outputs stand for a picture.
struct FeatureKind {
  int blocks = 1;                // CLS tokens of the last so many blocks, each through the final norm, last block last
  bool average_patches = false;  // with one block only: the mean of its patch tokens too, the two interleaved

  /// What the official linear evaluation takes: four blocks; from a width of 768 (ViT-B) on, one with the average.
  /// Source: README of the official repository (eval_linear.py --n_last_blocks, --avgpool_patchtokens).
  static FeatureKind linear_probe(const VitConfig& config);
  /// Numbers for each picture.
  std::int64_t width(const VitConfig& config) const {
    return std::int64_t{config.embed_dim} * (blocks + average_patches);
  }
  /// Throws Error where the network has no such features.
  void check(const VitConfig& config) const;
  bool operator==(const FeatureKind&) const = default;
};

struct FeatureOptions {
  int crop_px = 224;        // side of the centre crop; a multiple of the patch size
  int short_side_px = 256;  // the picture is first resized (bicubic) to this short side
  int batch = 32;
  int threads = 0;  // that decode; 0: one per processor
  FeatureKind kind = {};
  bool normalized = true;  // each row is brought to length 1

  /// The official proportions, 256 to 224, for a network whose native side is `image_px`.
  static FeatureOptions for_image_size(int image_px);
};

/// One row per picture that could be read, in the order of the data set.
struct FeatureTable {
  std::int64_t width = 0;             // C
  std::vector<float> values;          // (n, C), each row of length 1 unless that was not wanted
  std::vector<std::int32_t> labels;   // (n), -1 where unknown
  std::vector<std::int64_t> samples;  // (n), numbers of the pictures in their data set
  BrokenImages broken;                // those left out

  std::int64_t rows() const { return static_cast<std::int64_t>(labels.size()); }
  ConstArray array() const { return {values.data(), DType::float32, Shape{rows(), width}}; }
};

/// Called now and then with the pictures done so far, their number and the seconds spent waiting for data.
using FeatureProgress = std::function<void(std::int64_t done, std::int64_t total, double wait_s)>;

/// Features of one batch of crops, (B, size_px, size_px, 3) uint8 on the host: row-major (B, kind.width) in `rows`, not
/// normalised. Source: official eval_linear.py:170-176.
void compute_features(Context& context, const Vit& vit, const ParameterStore& store, Network network,
                      const ConstArray& pixels, const FeatureKind& kind, std::vector<float>& rows);

/// The end of every row of features: throws Error, naming the picture, for features that are not finite, and brings the
/// row to length 1 if it is to be `normalized`.
void finish_features(std::span<float> row, bool normalized, std::string_view name);

/// The elements of an (R, C) tensor of fp32 or bf16 on the host, as fp32.
std::vector<float> host_rows(Context& context, const Tensor& rows);

/// Features of every picture. Throws Error where none can be read, and for features that are not finite.
FeatureTable extract_features(Context& context, const Vit& vit, const ParameterStore& store, Network network,
                              const ImageSource& images, const FeatureOptions& options,
                              const FeatureProgress& progress = {});

/// The same by several ranks, each for a part of the pictures; every rank gets the whole table. Of the broken pictures
/// each rank's first are listed. Throws on every rank what one of them met; Interrupted where one got a signal.
FeatureTable extract_features(Context& context, Communicator& communicator, const Vit& vit, const ParameterStore& store,
                              Network network, const ImageSource& images, const FeatureOptions& options,
                              const FeatureProgress& progress = {});

/// A number for a network's weights, as 16 hexadecimal digits: tells whether features were made by the same ones.
std::string weights_fingerprint(Context& context, const ParameterStore& store, Network network);

/// One line about the pictures that were left out: how many, and the first of them with its reason, printable(). Empty:
/// none were.
std::string describe_broken(const FeatureTable& table);

/// The pixels themselves as features: `side_px` × `side_px` after the centre crop, mean removed, L2-normalised. What a
/// network has to beat. Throws Error where no picture can be read.
FeatureTable pixel_features(const ImageSource& images, int side_px, int threads = 0,
                            const FeatureProgress& progress = {});

}  // namespace dino
