#include "engine/ops/pos_embed.h"

#include "kernels/pos_embed/pos_embed.h"

#include <cmath>

namespace dino {

Tensor resize_pos_embed(Tape& tape, const Tensor& positions, int rows, int columns) {
  require(positions.shape().rank() >= 2 && positions.size() > 0, "resize_pos_embed",
          "positions have shape (1 + M·M, C); got {}", positions.shape().to_string());
  const std::int64_t width = positions.extent(-1);
  const std::int64_t count = positions.size() / width;
  const Tensor source = positions.reshape({count, width});
  const std::int64_t side = std::llround(std::sqrt(static_cast<double>(count - 1)));
  if (rows == side && columns == side && side * side + 1 == count) return source;

  Tensor resized = tape.output({1 + std::int64_t{rows} * columns, width}, DType::float32, {&source});
  resize_pos_embed({.positions = source.const_array(), .resized = resized.array(), .rows = rows, .columns = columns},
                   tape.stream());
  tape.record("resize_pos_embed", resized, [source, rows, columns](Tape& tape, const Tensor& d_resized) {
    const GradientTarget d_positions = tape.gradient_target(source);
    resize_pos_embed_backward({.d_resized = d_resized.const_array(),
                               .d_positions = d_positions.tensor.array(),
                               .rows = rows,
                               .columns = columns,
                               .mode = d_positions.mode},
                              tape.stream());
  });
  return resized;
}

}  // namespace dino
