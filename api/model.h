#pragma once

#include "api/include/dino_cuda.h"
#include "models/backbone.h"

#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

/// What the C API calls a model: a network with its device, for one call at a time.
struct dino_model {  // NOLINT(readability-identifier-naming): C's name
  /// Throws Refusal.
  dino_model(const char* path, const dino_model_options& options);

  const dino::VitConfig& config() const { return backbone_->vit.config(); }
  std::int64_t parameters() const { return backbone_->layout.parameter_count(); }
  const std::string& device() const { return device_; }

  /// Each writes what the function of its name in dino_cuda.h says. `to` has room for all of it, which the caller has
  /// made sure of.
  void features(std::span<const dino_image> images, const dino_view& view, const dino_feature_options& options,
                float* to);
  void patch_tokens(std::span<const dino_image> images, const dino_view& view, float* to);
  void attention(std::span<const dino_image> images, const dino_view& view, int layer, float* to);

 private:
  /// Calls `compute(pixels, first)` with runs of pictures that are seen at one size, prepared, from images[first] on.
  void in_batches(std::span<const dino_image> images, const dino_view& view,
                  const std::function<void(const dino::ConstArray& pixels, std::size_t first)>& compute);

  std::mutex mutex_;
  int threads_;
  int batch_;
  std::unique_ptr<dino::Context> context_;
  std::unique_ptr<dino::Backbone> backbone_;
  std::string device_;
  std::vector<std::byte> pixels_;  // of a batch
};
