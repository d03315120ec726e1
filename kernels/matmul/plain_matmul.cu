// The product of kernels/matmul for every combination of types, strides and addresses, on CUDA cores.
//
// Method: a block of 16 × 16 threads owns as many results; tiles of the operands go through shared memory, so each
// element is read once per block that needs it. Flops 2·M·N·K, in fp32; an H200 does 67 TFLOP/s of these, of which this
// kernel gets a tenth at best, because a thread keeps one result only. It is there to be right.
// Numerics: one fp32 sum over K in ascending order, then the bias, then what is there already, one rounding.
// Deterministic. Reference: reference::matmul.
#include "kernels/common/cuda/launch.h"
#include "kernels/matmul/plain_matmul.h"

namespace dino::cuda {
namespace {

constexpr int kTile = 16;

struct Tiles {
  float a[kTile][kTile + 1];
  float b[kTile][kTile + 1];
};

/// (row, column) lies at row * row_stride + column * column_stride.
template <typename T>
struct Strided {
  const T* data;
  std::int64_t row_stride, column_stride;
};

template <typename From, typename To>
__global__ void __launch_bounds__(kTile* kTile)
    multiply(Strided<From> a, Strided<From> b, const float* __restrict__ bias, To* __restrict__ y, std::int64_t m,
             std::int64_t n, std::int64_t k, bool accumulate) {
  Tiles& tiles = shared_memory<Tiles>();
  const int x = static_cast<int>(threadIdx.x);
  const int row_in_tile = static_cast<int>(threadIdx.y);
  const std::int64_t row = std::int64_t{blockIdx.x} * kTile + row_in_tile;
  const std::int64_t column = std::int64_t{blockIdx.y} * kTile + x;
  float sum = 0;
  for (std::int64_t begin = 0; begin < k; begin += kTile) {
    const bool in_a = row < m && begin + x < k;
    const bool in_b = column < n && begin + row_in_tile < k;
    tiles.a[row_in_tile][x] = in_a ? to_float(a.data[row * a.row_stride + (begin + x) * a.column_stride]) : 0.0F;
    tiles.b[row_in_tile][x] =
        in_b ? to_float(b.data[(begin + row_in_tile) * b.row_stride + column * b.column_stride]) : 0.0F;
    __syncthreads();
#pragma unroll
    for (int i = 0; i < kTile; ++i) sum = fmaf(tiles.a[row_in_tile][i], tiles.b[i][x], sum);
    __syncthreads();
  }
  if (row >= m || column >= n) return;
  if (bias != nullptr) sum += bias[column];
  To& out = y[row * n + column];
  out = from_float<To>(accumulate ? to_float(out) + sum : sum);
}

}  // namespace

void plain_matmul(const Matmul& args, const Array& y, Stream& stream) {
  const auto [m, n, k] = checked_size(args);
  // Rows of the grid may be many, columns at most 65535.
  require(n <= std::int64_t{65535} * kTile, "matmul", "y has {} columns; expected at most {}", n, 65535 * kTile);
  const LaunchShape shape{dim3(blocks_for(m, kTile), blocks_for(n, kTile)), dim3(kTile, kTile), sizeof(Tiles)};
  visit_compute_type(args.a.dtype(), "matmul", [&](auto from) {
    visit_compute_type(y.dtype(), "matmul", [&](auto to) {
      using From = decltype(from);
      using To = decltype(to);
      const Strided<From> a{args.a.as<From>(), args.transpose_a ? 1 : k, args.transpose_a ? m : 1};
      const Strided<From> b{args.b.as<From>(), args.transpose_b ? 1 : n, args.transpose_b ? k : 1};
      launch(multiply<From, To>, shape, stream, a, b, args.bias.as<float>(), y.as<To>(), m, n, k,
             args.mode == GradientMode::accumulate);
    });
  });
}

}  // namespace dino::cuda
