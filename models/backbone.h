#pragma once

#include "models/vit.h"
#include "models/weights_file.h"

#include <filesystem>

namespace dino {

/// A trained network ready for inference: its parameters' layout, their values, and the Vit that uses them.
struct Backbone {
  Backbone(Context& context, const WeightsFile& file, DType compute_type);
  Backbone(Context& context, const std::filesystem::path& path, DType compute_type, const WeightsOptions& options = {})
      : Backbone(context, read_weights(path, options), compute_type) {}
  Backbone(const Backbone&) = delete;
  Backbone& operator=(const Backbone&) = delete;

  ParameterLayout layout;
  Vit vit;
  ParameterStore store;
};

}  // namespace dino
