// The position embedding of global crops at the size of local ones.
#include "kernels/pos_embed/pos_embed.h"

#include "benchmarks/benchmark.h"
#include "benchmarks/textbook/pos_embed.h"
#include "benchmarks/textbook/textbook.h"

#include <fmt/format.h>

#include <cmath>

namespace dino::bench {
namespace {

std::int64_t grid_of(std::int64_t tokens) { return std::lround(std::sqrt(static_cast<double>(tokens - 1))); }

/// What the textbook needs besides its arguments, for a grid of n x n.
template <typename Steps, typename Args>
Steps steps_for(Bench& bench, const Args& args, std::int64_t n) {
  const Workload& w = bench.workload();
  const std::int64_t side = grid_of(w.global_tokens());
  return {.args = args,
          .vertical = bench.zeros(DType::float32, {n, side}),
          .horizontal = bench.zeros(DType::float32, {n, side}),
          .between = bench.zeros(DType::float32, {n * side, w.width})};
}

Prepared prepare_forward(Bench& bench) {
  const Workload& w = bench.workload();
  const std::int64_t n = grid_of(w.local_tokens());
  const Array positions = bench.values(DType::float32, {w.global_tokens(), w.width});
  const Array resized = bench.zeros(DType::float32, {w.local_tokens(), w.width});
  const ResizePosEmbed args{.positions = positions, .resized = resized, .rows = n, .columns = n};
  Stream& stream = bench.stream();
  Prepared prepared{.size = fmt::format("{} to {} x {}", w.global_tokens(), w.local_tokens(), w.width),
                    .run = [=, &stream] { resize_pos_embed(args, stream); },
                    .outputs = {resized}};
  textbook::add(bench, prepared, steps_for<textbook::ResizePosEmbedSteps>(bench, args, n));
  return prepared;
}

Prepared prepare_backward(Bench& bench) {
  const Workload& w = bench.workload();
  const std::int64_t n = grid_of(w.local_tokens());
  const Array d_resized = bench.values(DType::float32, {w.local_tokens(), w.width});
  const Array d_positions = bench.zeros(DType::float32, {w.global_tokens(), w.width});
  const ResizePosEmbedBackward args{
      .d_resized = d_resized, .d_positions = d_positions, .rows = n, .columns = n, .mode = GradientMode::overwrite};
  Stream& stream = bench.stream();
  Prepared prepared{.size = fmt::format("{} to {} x {}", w.local_tokens(), w.global_tokens(), w.width),
                    .run = [=, &stream] { resize_pos_embed_backward(args, stream); },
                    .outputs = {d_positions}};
  textbook::add(bench, prepared, steps_for<textbook::ResizePosEmbedBackwardSteps>(bench, args, n));
  return prepared;
}

const Registered kForward{{"pos_embed", "forward", prepare_forward, {DType::float32}}};
const Registered kBackward{{"pos_embed", "backward", prepare_backward, {DType::float32}}};

}  // namespace
}  // namespace dino::bench
