// Attention over packed sequences of any length, as in FlashAttention-2 (Dao, arXiv 2307.08691): scores live in
// registers, no (N, N) matrix in memory.
//
// Method. bf16 with heads of 32 or 64 takes the tensor cores: attention_forward_cuda.h, attention_backward_cuda.h,
// which say how, what bounds them and how exact they are. Sequences that fit stay in shared memory, longer ones stream.
// Blocks find their sequence in the offsets. Everything else (fp32, other widths, addresses that are no multiples of
// 16) takes the CUDA cores, 16 queries per block: attention_plain_cuda.h. What starts them is here.
//
// Bytes: qkv, out and logsumexp once, (8 N D + 4 N) per head in bf16; of the gradient 16 N D. Flops: 4 N² D; of the
// gradient 14 N² D.
//
// Numerics: fp32 scores and sums. The same bits every time: no atomics.

#include "kernels/attention/attention.h"
#include "kernels/attention/attention_backward_cuda.h"
#include "kernels/attention/attention_forward_cuda.h"
#include "kernels/attention/attention_plain_cuda.h"
#include "kernels/common/cuda/launch.h"
#include "kernels/common/cuda/rows.h"

#include <algorithm>
#include <cmath>

namespace dino::cuda {
namespace {

using namespace attention;

/// Blocks when each takes up to `rows` rows of one head.
unsigned parts(std::int64_t rows, std::int64_t sequences, int heads, int part_rows) {
  return static_cast<unsigned>((rows / part_rows + sequences) * heads);
}

/// Does this head width have kernels for the tensor cores, which read packs of 16 bytes?
template <typename... Arrays>
bool fits_tensor_cores(std::int64_t head_width, const Arrays&... arrays) {
  return (head_width == 32 || head_width == 64) && pack_size<BFloat16>(head_width, arrays...) == 8;
}

template <int D>
void launch_forward(Forward<BFloat16> args, int max_length, Stream& stream) {
  constexpr int kRowBytes = 2 * D * static_cast<int>(sizeof(BFloat16));  // a key and a value
  constexpr int kUsual = 208 * 64 / D;                                   // rows: four blocks on sm_90
  constexpr int kMost = 384 * 64 / D;                                    // rows: two blocks on sm_90
  if (max_length > kMost) {
    launch(forward_streaming<D>,
           {parts(args.rows, args.sequences, args.heads, kStreamRows), kStreamWarps * kWarpSize,
            2 * kStreamRows * kRowBytes},
           stream, args);
    return;
  }
  args.capacity = std::max(kUsual, (max_length + kTile - 1) / kTile * kTile);
  launch(forward_resident<D>,
         {static_cast<unsigned>(args.sequences) * static_cast<unsigned>(args.heads), kResidentWarps * kWarpSize,
          static_cast<std::size_t>(args.capacity) * kRowBytes},
         stream, args);
}

template <typename T>
const float* launch_deltas(const Backward<T>& args, Stream& stream) {
  const std::int64_t dots = args.rows * args.heads;
  auto* delta = static_cast<float*>(stream.scratch(static_cast<std::size_t>(dots) * sizeof(float)));
  launch(compute_deltas<T>, {blocks_for(dots, kPlainWarps), kPlainWarps * kWarpSize}, stream, args.out, args.d_out,
         delta, args.rows, args.heads, args.head_width);
  return delta;
}

template <int D>
void launch_backward(Backward<BFloat16> args, int max_length, Stream& stream) {
  constexpr int kCapacity = 208 * 64 / D;  // rows: two blocks on sm_90
  constexpr std::size_t kRowBytes = D * sizeof(BFloat16);
  constexpr std::size_t kResidentBytes = kCapacity * (4 * kRowBytes + 2 * sizeof(float));
  // Cards with 99 KB for a block stream.
  if (max_length <= kCapacity && kResidentBytes <= most_shared_bytes(stream)) {
    args.capacity = kCapacity;
    launch(backward_resident<D>,
           {static_cast<unsigned>(args.sequences) * static_cast<unsigned>(args.heads), kBackwardWarps * kWarpSize,
            kResidentBytes},
           stream, args);
    return;
  }
  args.delta = launch_deltas(args, stream);
  const LaunchShape shape{parts(args.rows, args.sequences, args.heads, kStreamRows), kStreamWarps * kWarpSize,
                          kStreamRows * (4 * kRowBytes + 4 * sizeof(float))};
  launch(backward_streaming<D, true>, shape, stream, args);
  launch(backward_streaming<D, false>, shape, stream, args);
}

/// Shared memory of a plain kernel. Throws Error where a block cannot have as much.
std::size_t plain_bytes(std::int64_t floats_per_column, std::int64_t floats, std::int64_t head_width,
                        const Stream& stream, const char* where) {
  const auto most = static_cast<std::int64_t>(most_shared_bytes(stream) / sizeof(float));
  const std::int64_t widest = (most - floats) / floats_per_column;
  require(head_width <= widest, where,
          "heads are too wide for the shared memory; got {}, expected at most {}; try more", head_width, widest);
  return static_cast<std::size_t>(floats_per_column * head_width + floats) * sizeof(float);
}

}  // namespace

void attention_forward(const AttentionForward& args, Stream& stream) {
  check_attention(args);
  const std::int64_t width = args.qkv.extent(1) / 3;
  const std::int64_t head_width = width / args.heads;
  const double scale = 1.0 / std::sqrt(static_cast<double>(head_width));
  visit_compute_type(args.qkv.dtype(), "attention", [&](auto zero) {
    using T = decltype(zero);
    Forward<T> forward{.qkv = args.qkv.as<T>(),
                       .offsets = args.offsets.as<std::int32_t>(),
                       .out = args.out.as<T>(),
                       .logsumexp = args.logsumexp.as<float>(),
                       .rows = args.qkv.extent(0),
                       .sequences = static_cast<int>(args.offsets.extent(0)) - 1,
                       .heads = args.heads,
                       .head_width = static_cast<int>(head_width),
                       .capacity = 0,
                       .exp2_scale = static_cast<float>(scale * 1.4426950408889634)};
    if constexpr (std::is_same_v<T, BFloat16>) {
      if (fits_tensor_cores(head_width, args.qkv, args.out)) {
        return head_width == 32 ? launch_forward<32>(forward, args.max_length, stream)
                                : launch_forward<64>(forward, args.max_length, stream);
      }
    }
    launch(forward_plain<T>,
           {parts(forward.rows, forward.sequences, args.heads, kPlainRows), kPlainWarps * kWarpSize,
            plain_bytes(2 * kPlainRows + kPlainColumns, (kPlainRows + 1) * kPlainColumns, head_width, stream,
                        "attention")},
           stream, forward);
  });
}

void attention_backward(const AttentionBackward& args, Stream& stream) {
  check_attention(args);
  if (args.mode == GradientMode::ignore) return;
  const std::int64_t width = args.qkv.extent(1) / 3;
  const std::int64_t head_width = width / args.heads;
  const double scale = 1.0 / std::sqrt(static_cast<double>(head_width));
  visit_compute_type(args.qkv.dtype(), "attention_backward", [&](auto zero) {
    using T = decltype(zero);
    Backward<T> backward{.qkv = args.qkv.as<T>(),
                         .out = args.out.as<T>(),
                         .d_out = args.d_out.as<T>(),
                         .offsets = args.offsets.as<std::int32_t>(),
                         .logsumexp = args.logsumexp.as<float>(),
                         .delta = nullptr,
                         .d_qkv = args.d_qkv.as<T>(),
                         .adds = args.mode == GradientMode::accumulate,
                         .rows = args.qkv.extent(0),
                         .sequences = static_cast<int>(args.offsets.extent(0)) - 1,
                         .heads = args.heads,
                         .head_width = static_cast<int>(head_width),
                         .capacity = 0,
                         .scale = static_cast<float>(scale),
                         .exp2_scale = static_cast<float>(scale * kLog2E)};
    if constexpr (std::is_same_v<T, BFloat16>) {
      if (fits_tensor_cores(head_width, args.qkv, args.out, args.d_out, args.d_qkv)) {
        return head_width == 32 ? launch_backward<32>(backward, args.max_length, stream)
                                : launch_backward<64>(backward, args.max_length, stream);
      }
    }
    const LaunchShape shape{parts(backward.rows, backward.sequences, args.heads, kPlainRows), kPlainWarps * kWarpSize,
                            plain_bytes(4 * kPlainRows + 2 * kPlainColumns, (2 * kPlainRows + 2) * kPlainColumns,
                                        head_width, stream, "attention_backward")};
    backward.delta = launch_deltas(backward, stream);
    launch(backward_plain<T, true>, shape, stream, backward);
    launch(backward_plain<T, false>, shape, stream, backward);
  });
}

}  // namespace dino::cuda
