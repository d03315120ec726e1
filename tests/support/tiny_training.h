#pragma once

#include "data/image_source.h"
#include "train/config.h"

#include <string>

namespace dino::test {

/// Small coloured gradients, each different, that need no files. Classes 0, 1, 0, 1, …
class DrawnPictures final : public ImageSource {
 public:
  explicit DrawnPictures(std::int64_t count) : count_(count) {}

  std::int64_t size() const override { return count_; }
  void decode(std::int64_t index, Image& image) const override {
    image.resize(20, 24);
    std::uint8_t* out = image.rgb.data();
    for (int y = 0; y < image.height; ++y) {
      for (int x = 0; x < image.width; ++x) {
        *out++ = static_cast<std::uint8_t>(10 * x + 37 * index);
        *out++ = static_cast<std::uint8_t>(12 * y + 91 * index);
        *out++ = static_cast<std::uint8_t>(x * y + 53 * index);
      }
    }
  }
  std::int32_t label(std::int64_t index) const override { return static_cast<std::int32_t>(index % 2); }
  std::string name(std::int64_t index) const override { return "drawn picture " + std::to_string(index); }

 private:
  std::int64_t count_;
};

/// A run of a few thousand parameters: a step takes milliseconds.
inline TrainConfig tiny_config() {
  TrainConfig config;
  config.arch = "vit_tiny";
  config.patch_size = 8;
  config.embed_dim = 24;
  config.depth = 2;
  config.num_heads = 2;
  config.out_dim = 48;
  config.head_hidden_dim = 32;
  config.head_bottleneck_dim = 16;
  config.global_crops_size = 16;
  config.local_crops_size = 8;
  config.local_crops_number = 2;
  config.epochs = 3;
  config.batch_size_per_gpu = 2;
  config.lr = 0.02;
  config.warmup_epochs = 1;
  config.saveckp_freq = 0;
  config.num_workers = 1;
  config.precision = "fp32";
  return config;
}

}  // namespace dino::test
