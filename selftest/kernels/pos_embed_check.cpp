#include "kernels/pos_embed/pos_embed.h"
#include "selftest/kernels/kernel_check.h"

namespace dino {
namespace {

struct Grids {
  std::int64_t side, rows, columns, width;
  Shape from() const { return {1 + side * side, width}; }
  Shape to() const { return {1 + rows * columns, width}; }
};
constexpr Grids kOddGrids{3, 2, 5, 7}, kDinoGrids{14, 6, 6, 96};

void resize_pos_embed_check(KernelBench& b) {
  for (const Grids& g : {kOddGrids, kDinoGrids}) {
    const Value positions = b.normal(kFloat, g.from(), 0.02), resized = b.result(kFloat, g.to());
    b.run(
        [&](At at) {
          return ResizePosEmbed{
              .positions = at(positions), .resized = at(resized), .rows = g.rows, .columns = g.columns};
        },
        resize_pos_embed, reference::resize_pos_embed, {{"resized", resized, 1e-6}});
  }
}

void resize_pos_embed_backward_check(KernelBench& b) {
  for (const Grids& g : {kOddGrids, kDinoGrids}) {
    const Value d_resized = b.normal(kFloat, g.to()), d_positions = b.updated(kFloat, g.from());
    b.run(
        [&](At at) {
          return ResizePosEmbedBackward{.d_resized = at(d_resized),
                                        .d_positions = at(d_positions),
                                        .rows = g.rows,
                                        .columns = g.columns,
                                        .mode = kAccumulate};
        },
        resize_pos_embed_backward, reference::resize_pos_embed_backward, {{"d_positions", d_positions, 1e-6}});
  }
}

}  // namespace

KernelChecks pos_embed_checks() {
  static constexpr KernelCheck kChecks[] = {
      {"resize_pos_embed", false, resize_pos_embed_check},
      {"resize_pos_embed_backward", false, resize_pos_embed_backward_check},
  };
  return kChecks;
}

}  // namespace dino
