#include "kernels/common/cuda/launch.h"
#include "kernels/pos_embed/pos_embed.h"

// A block per row that is written. Its first threads compute the taps of that row in double and leave them in shared
// memory as fp32; then its threads take packs of channels.
//   forward   16 rows are read for each row written, from cache: 0.3 MB for ViT-S at 14 x 14.
//   backward  each position gathers from the outputs that looked at it, rows then columns in ascending order: no
//             atomics, the same bits every time.
// A few microseconds either way, most of it latency.
// Reference: pos_embed_reference.cpp.

namespace dino::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kTaps = 4;

/// The four taps of an output along one axis: sources `first` to `first` + 3, of which those outside of the grid fall
/// onto its border.
struct AxisTaps {
  int first;
  double t;  // distance to the second tap
};

__device__ __forceinline__ AxisTaps axis_taps(int output, int outputs, int side) {
  const double at = static_cast<double>(side) / (static_cast<double>(outputs) + 0.1) * (output + 0.5) - 0.5;
  const double low = floor(at);
  return {static_cast<int>(low) - 1, at - low};
}

/// Keys' cubic kernel at tap k.
__device__ __forceinline__ float tap_weight(double t, int k) {
  constexpr double kA = -0.75;
  const double s = 1 - t;
  const double near = k == 1 ? t : s;
  const double far = k == 0 ? t : s;
  const double weight =
      k == 1 || k == 2 ? ((kA + 2) * near - (kA + 3)) * near * near + 1 : kA * far * (1 - far) * (1 - far);
  return static_cast<float>(weight);
}

__device__ __forceinline__ int clamped(int source, int side) {
  return source < 0 ? 0 : source < side ? source : side - 1;
}

struct Resize {
  const float* positions;
  float* resized;
  int rows, columns, side, width;
};

struct ForwardShared {
  float weights[2][kTaps];  // vertical, horizontal
  int sources[2][kTaps];
};

/// Block r writes row r.
template <int N>
__global__ void __launch_bounds__(kThreads) resize_rows(const Resize args) {
  auto& shared = shared_memory<ForwardShared>();
  const int output = static_cast<int>(blockIdx.x) - 1;  // -1: the CLS row
  const int thread = static_cast<int>(threadIdx.x);
  if (output >= 0 && thread < 2 * kTaps) {
    const int axis = thread / kTaps;
    const int k = thread % kTaps;
    const AxisTaps taps = axis == 0 ? axis_taps(output / args.columns, args.rows, args.side)
                                    : axis_taps(output % args.columns, args.columns, args.side);
    shared.weights[axis][k] = tap_weight(taps.t, k);
    shared.sources[axis][k] = clamped(taps.first + k, args.side);
  }
  __syncthreads();
  float* row = args.resized + std::int64_t{blockIdx.x} * args.width;
  for (int c = thread * N; c < args.width; c += kThreads * N) {
    float sum[N] = {};
    if (output < 0) {
      load(args.positions + c, sum);
    } else {
      for (int v = 0; v < kTaps; ++v) {
        for (int u = 0; u < kTaps; ++u) {
          const float weight = shared.weights[0][v] * shared.weights[1][u];
          const std::int64_t source = 1 + std::int64_t{shared.sources[0][v]} * args.side + shared.sources[1][u];
          float values[N];
          load(args.positions + source * args.width + c, values);
#pragma unroll
          for (int i = 0; i < N; ++i) sum[i] += weight * values[i];
        }
      }
    }
    store(sum, row + c);
  }
}

struct Backward {
  const float* d_resized;
  float* d_positions;
  int rows, columns, side, width;
  bool adds;
};

/// The weight of a source in an output along one axis; on the border several taps add up.
__device__ __forceinline__ float weight_in(int output, int outputs, int source, int side) {
  const AxisTaps taps = axis_taps(output, outputs, side);
  float weight = 0;
  for (int k = 0; k < kTaps; ++k) {
    if (clamped(taps.first + k, side) == source) weight += tap_weight(taps.t, k);
  }
  return weight;
}

/// Outputs [begin, end) of an axis hold all whose weight is not zero.
struct Range {
  int begin, end;
};

__device__ __forceinline__ Range used(const float* weights, int outputs) {
  Range range{0, outputs};
  while (range.begin < range.end && weights[range.begin] == 0) ++range.begin;
  while (range.begin < range.end && weights[range.end - 1] == 0) --range.end;
  return range;
}

/// Block r writes row r.
template <int N>
__global__ void __launch_bounds__(kThreads, 1) backward_rows(const Backward args) {
  float* vertical = &shared_memory<float>();  // (rows), then (columns)
  float* horizontal = vertical + args.rows;
  const int source = static_cast<int>(blockIdx.x) - 1;  // -1: the CLS row
  const int thread = static_cast<int>(threadIdx.x);
  if (source >= 0) {
    for (int y = thread; y < args.rows; y += kThreads) {
      vertical[y] = weight_in(y, args.rows, source / args.side, args.side);
    }
    for (int x = thread; x < args.columns; x += kThreads) {
      horizontal[x] = weight_in(x, args.columns, source % args.side, args.side);
    }
  }
  __syncthreads();
  const Range ys = source >= 0 ? used(vertical, args.rows) : Range{0, 0};
  const Range xs = source >= 0 ? used(horizontal, args.columns) : Range{0, 0};
  float* row = args.d_positions + std::int64_t{blockIdx.x} * args.width;
  for (int c = thread * N; c < args.width; c += kThreads * N) {
    float sum[N] = {};
    if (source < 0) load(args.d_resized + c, sum);
    for (int y = ys.begin; y < ys.end; ++y) {
      for (int x = xs.begin; x < xs.end; ++x) {
        const float weight = vertical[y] * horizontal[x];
        float values[N];
        load(args.d_resized + (1 + std::int64_t{y} * args.columns + x) * args.width + c, values);
#pragma unroll
        for (int i = 0; i < N; ++i) sum[i] += weight * values[i];
      }
    }
    if (args.adds) {
      float before[N];
      load(row + c, before);
#pragma unroll
      for (int i = 0; i < N; ++i) sum[i] += before[i];
    }
    store(sum, row + c);
  }
}

}  // namespace

void resize_pos_embed(const ResizePosEmbed& args, Stream& stream) {
  const std::int64_t side = check_pos_embed(args);
  const std::int64_t width = args.positions.extent(1);
  const Resize resize{.positions = args.positions.as<float>(),
                      .resized = args.resized.as<float>(),
                      .rows = static_cast<int>(args.rows),
                      .columns = static_cast<int>(args.columns),
                      .side = static_cast<int>(side),
                      .width = static_cast<int>(width)};
  with_pack<float>(pack_size<float>(width, args.positions, args.resized), [&](auto n) {
    launch(resize_rows<n>, {static_cast<unsigned>(args.resized.extent(0)), kThreads, sizeof(ForwardShared)}, stream,
           resize);
  });
}

void resize_pos_embed_backward(const ResizePosEmbedBackward& args, Stream& stream) {
  if (args.mode == GradientMode::ignore) return;
  const std::int64_t side = check_pos_embed(args);
  const std::int64_t width = args.d_positions.extent(1);
  const Backward backward{.d_resized = args.d_resized.as<float>(),
                          .d_positions = args.d_positions.as<float>(),
                          .rows = static_cast<int>(args.rows),
                          .columns = static_cast<int>(args.columns),
                          .side = static_cast<int>(side),
                          .width = static_cast<int>(width),
                          .adds = args.mode == GradientMode::accumulate};
  const std::size_t shared_bytes = static_cast<std::size_t>(args.rows + args.columns) * sizeof(float);
  with_pack<float>(pack_size<float>(width, args.d_resized, args.d_positions), [&](auto n) {
    launch(backward_rows<n>, {static_cast<unsigned>(args.d_positions.extent(0)), kThreads, shared_bytes}, stream,
           backward);
  });
}

}  // namespace dino::cuda
