#pragma once

#include "engine/context.h"
#include "engine/parameters.h"
#include "models/vit.h"

#include <memory>

namespace dino::test {

/// A network of three blocks, 24 wide, with drawn weights, on the CPU.
struct TinyNetwork {
  TinyNetwork(int image_px, std::uint64_t seed)
      : vit(layout, {.embed_dim = 24, .depth = 3, .heads = 2, .patch_px = 8, .image_px = image_px}),
        store(*context, layout, DType::float32, ParameterStore::Role::inference) {
    store.initialize(seed);
  }

  std::unique_ptr<Context> context = make_cpu_context();
  ParameterLayout layout;
  Vit vit;
  ParameterStore store;
};

}  // namespace dino::test
