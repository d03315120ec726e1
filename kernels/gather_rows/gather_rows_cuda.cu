#include "kernels/common/cuda/launch.h"
#include "kernels/gather_rows/gather_rows.h"

namespace dino::cuda {
namespace {

constexpr int kThreads = 256;

/// to[to_rows[r]] (+)= from[from_rows[r]], a pack per thread; a missing list of rows stands for r itself. No row is
/// written by two.
template <typename T, int N>
__global__ void __launch_bounds__(kThreads)
    copy_rows(const T* from, const std::int32_t* from_rows, T* to, const std::int32_t* to_rows, std::int64_t packs,
              int packs_per_row, bool adds) {
  const std::int64_t i = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= packs) return;
  const std::int64_t row = i / packs_per_row;
  const std::int64_t column = i % packs_per_row * N;
  const std::int64_t width = std::int64_t{packs_per_row} * N;
  float values[N];
  load(from + (from_rows != nullptr ? from_rows[row] : row) * width + column, values);
  T* target = to + (to_rows != nullptr ? to_rows[row] : row) * width + column;
  if (adds) {
    float before[N];
    load(target, before);
#pragma unroll
    for (int k = 0; k < N; ++k) values[k] += before[k];
  }
  store(values, target);
}

template <typename T, int N>
__global__ void __launch_bounds__(kThreads) fill_zero(T* x, std::int64_t packs) {
  const std::int64_t i = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= packs) return;
  const float zeros[N] = {};
  store(zeros, x + i * N);
}

template <typename T, int N>
void copy(const ConstArray& from, const std::int32_t* from_rows, const Array& to, const std::int32_t* to_rows,
          std::int64_t rows, bool adds, Stream& stream) {
  const std::int64_t packs = rows * to.extent(1) / N;
  launch(copy_rows<T, N>, {blocks_for(packs, kThreads), kThreads}, stream, from.as<T>(), from_rows, to.as<T>(), to_rows,
         packs, static_cast<int>(to.extent(1) / N), adds);
}

}  // namespace

void gather_rows(const GatherRows& args, Stream& stream) {
  check_gather_rows(args);
  visit_compute_type(args.x.dtype(), "gather_rows", [&](auto zero) {
    using T = decltype(zero);
    with_pack<T>(pack_size<T>(args.x.extent(1), args.x, args.y), [&](auto n) {
      copy<T, n>(args.x, args.rows.as<std::int32_t>(), args.y, nullptr, args.rows.size(), false, stream);
    });
  });
}

void gather_rows_backward(const GatherRowsBackward& args, Stream& stream) {
  if (args.mode == GradientMode::ignore) return;
  check_gather_rows(args);
  visit_compute_type(args.dx.dtype(), "gather_rows_backward", [&](auto zero) {
    using T = decltype(zero);
    with_pack<T>(pack_size<T>(args.dx.extent(1), args.dx, args.dy), [&](auto n) {
      if (args.mode == GradientMode::overwrite) {
        const std::int64_t packs = args.dx.size() / n;
        launch(fill_zero<T, n>, {blocks_for(packs, kThreads), kThreads}, stream, args.dx.as<T>(), packs);
      }
      copy<T, n>(args.dy, nullptr, args.dx, args.rows.as<std::int32_t>(), args.rows.size(),
                 args.mode == GradientMode::accumulate, stream);
    });
  });
}

}  // namespace dino::cuda
