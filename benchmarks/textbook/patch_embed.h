#pragma once

#include "benchmarks/textbook/step.h"
#include "kernels/patch_embed/patch_embed.h"

#include <array>

namespace dino::bench::textbook {

/// Of 8-bit pixels.
struct PatchifySteps {
  Patchify args;

  [[gnu::weak]] static Call on_gpu(const PatchifySteps& steps, Stream& stream);
  DType type() const { return args.patches.dtype(); }

  template <typename T, typename On>
  void run(const On& on) const {
    const std::int64_t px = args.images.extent(1), p = args.patch_px, grid = px / p;
    const auto* images = args.images.as<std::uint8_t>();
    T* patches = args.patches.as<T>();
    const std::array<float, 3> mean = args.mean, deviation = args.std;
    on.for_rows(args.patches.extent(0), 3 * p * p, [=] DINO_STEP(const typename On::Row& patch, std::int64_t r) {
      const std::int64_t image = r / (grid * grid), row = r / grid % grid, column = r % grid;
      patch.each(3 * p, p, [&](std::int64_t line, std::int64_t x) {
        const std::int64_t c = line / p, y = line % p;
        const float pixel = images[((image * px + row * p + y) * px + column * p + x) * 3 + c];
        const auto channel = static_cast<std::size_t>(c);
        patches[(r * 3 * p + line) * p + x] = put<T>((pixel / 255 - mean[channel]) / deviation[channel]);
      });
    });
  }
};

struct AssembleTokensSteps {
  AssembleTokens args;

  [[gnu::weak]] static Call on_gpu(const AssembleTokensSteps& steps, Stream& stream);
  DType type() const { return args.tokens.dtype(); }

  template <typename T, typename On>
  void run(const On& on) const {
    const std::int64_t sequence = args.positions.extent(0), width = args.positions.extent(1);
    const T* embedded = args.embedded.as<T>();
    const float *cls = args.cls.as<float>(), *positions = args.positions.as<float>();
    T* tokens = args.tokens.as<T>();
    on.for_rows(args.tokens.extent(0), width, [=] DINO_STEP(const typename On::Row& row, std::int64_t r) {
      const std::int64_t image = r / sequence, token = r % sequence;
      row.each(width, [&](std::int64_t c) {
        const float value = token == 0 ? cls[c] : get(embedded[(image * (sequence - 1) + token - 1) * width + c]);
        tokens[r * width + c] = put<T>(value + positions[token * width + c]);
      });
    });
  }
};

struct AssembleTokensBackwardSteps {
  AssembleTokensBackward args;

  [[gnu::weak]] static Call on_gpu(const AssembleTokensBackwardSteps& steps, Stream& stream);
  DType type() const { return args.d_tokens.dtype(); }

  template <typename T, typename On>
  void run(const On& on) const {
    const std::int64_t sequence = args.d_positions.extent(0), width = args.d_positions.extent(1), count = args.count;
    const T* d_tokens = args.d_tokens.as<T>();
    T* d_embedded = args.d_embedded.as<T>();
    float *d_cls = args.d_cls.as<float>(), *d_positions = args.d_positions.as<float>();
    on.for_rows(args.d_embedded.extent(0), width, [=] DINO_STEP(const typename On::Row& row, std::int64_t r) {
      const std::int64_t image = r / (sequence - 1), token = 1 + r % (sequence - 1);
      row.each(width,
               [&](std::int64_t c) { d_embedded[r * width + c] = d_tokens[(image * sequence + token) * width + c]; });
    });
    on.for_rows(sequence, width, [=] DINO_STEP(const typename On::Row& row, std::int64_t token) {
      row.each(width, [&](std::int64_t c) {
        float sum = 0;
        for (std::int64_t i = 0; i < count; ++i) sum += get(d_tokens[(i * sequence + token) * width + c]);
        d_positions[token * width + c] = sum;
      });
    });
    on.for_each(width, [=] DINO_STEP(std::int64_t c) { d_cls[c] = d_positions[c]; });
  }
};

}  // namespace dino::bench::textbook
