#include "kernels/matmul/widened_matmul.h"

#include "kernels/common/parallel.h"
#include "kernels/matmul/onednn_matmul.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/matmul/widened_matmul.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/common/simd-inl.h"
#include "kernels/gelu/gelu-inl.h"

#ifndef DINO_KERNELS_MATMUL_WIDENED_BLOCK_
#define DINO_KERNELS_MATMUL_WIDENED_BLOCK_
namespace dino::cpu {

/// A block of a row-major array in memory, and its dense fp32 copy.
struct WidenedBlock {
  std::int64_t rows, columns;
  std::int64_t stride;  // elements from row to row of the array
  float* widened;       // (rows, columns)
};

}  // namespace dino::cpu
#endif

HWY_BEFORE_NAMESPACE();
namespace dino::cpu::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;
namespace simd = dino::simd::HWY_NAMESPACE;

constexpr std::int64_t kGrain = 1 << 14;  // elements that are worth a thread

/// Calls `body(at in the array, at in the copy, n)` on stretches that cover the block, on all threads.
template <typename Body>
void for_stretches(const WidenedBlock& block, const Body& body) {
  if (block.stride == block.columns) {
    parallel_for(block.rows * block.columns, kGrain, [&](std::int64_t begin, std::int64_t end) {
      body(begin, begin, static_cast<std::size_t>(end - begin));
    });
    return;
  }
  parallel_for(block.rows, std::max<std::int64_t>(1, kGrain / block.columns),
               [&](std::int64_t begin, std::int64_t end) {
                 for (std::int64_t row = begin; row < end; ++row) {
                   body(row * block.stride, row * block.columns, static_cast<std::size_t>(block.columns));
                 }
               });
}

/// Copies a block that begins at element `offset`.
void widen(const ConstArray& array, std::int64_t offset, const WidenedBlock& block) {
  visit_compute_type(array.dtype(), "matmul", [&](auto t) {
    const auto* from = array.as<decltype(t)>() + offset;
    for_stretches(block, [&](std::int64_t at, std::int64_t at_copy, std::size_t n) {
      const simd::FloatTag d;
      const std::size_t lanes = hn::Lanes(d);
      for (std::size_t i = 0; i < n; i += lanes) {
        simd::store_up_to(d, simd::load_up_to(d, from + at + i, n - i), block.widened + at_copy + i, n - i);
      }
    });
  });
}

template <typename T>
void finish_as(const WidenedBlock& block, T* preactivation, T* y, bool gelu) {
  for_stretches(block, [&](std::int64_t at, std::int64_t at_copy, std::size_t n) {
    const simd::FloatTag d;
    const std::size_t lanes = hn::Lanes(d);
    for (std::size_t i = 0; i < n; i += lanes) {
      const auto value = simd::load_up_to(d, block.widened + at_copy + i, n - i);
      if (preactivation != nullptr) simd::store_up_to(d, value, preactivation + at + i, n - i);
      simd::store_up_to(d, gelu ? simd::gelu(d, value) : value, y + at + i, n - i);
    }
  });
}

/// Rounds a finished block to its place, through the GELU where that is asked for. `offset`: of the block in y.
void finish(const WidenedBlock& block, const Matmul& args, std::int64_t offset) {
  visit_compute_type(args.y.dtype(), "matmul", [&](auto t) {
    using T = decltype(t);
    T* preactivation = args.preactivation ? args.preactivation.as<T>() + offset : nullptr;
    finish_as(block, preactivation, args.y.as<T>() + offset, args.gelu);
  });
}

}  // namespace dino::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dino::cpu {

HWY_EXPORT(widen);
HWY_EXPORT(finish);

namespace {

enum class Dimension { m, n, k };

/// Cuts one piece of scratch memory into aligned parts.
class ScratchPlan {
 public:
  std::size_t add(std::size_t size_bytes) {
    const std::size_t offset = size_;
    size_ += (size_bytes + 63) / 64 * 64;
    return offset;
  }
  std::size_t add_floats(std::int64_t count) { return add(static_cast<std::size_t>(count) * sizeof(float)); }
  std::size_t size() const { return size_; }

 private:
  std::size_t size_ = 0;
};

/// Extent of a block along a dimension of this length, of which each step takes `step_bytes` of fp32 copies.
std::int64_t block_extent(std::int64_t length, std::int64_t step_bytes, std::int64_t block_bytes) {
  constexpr std::int64_t kMultiple = 64;  // whole tiles of the library's kernels
  const std::int64_t most = std::max(kMultiple, block_bytes * omp_get_max_threads() / step_bytes);
  const std::int64_t blocks = (length + most - 1) / most;
  const std::int64_t even = (length + blocks - 1) / blocks;
  return std::min(length, (even + kMultiple - 1) / kMultiple * kMultiple);
}

}  // namespace

void matmul_widened(const Matmul& args, Stream& stream, std::int64_t block_bytes) {
  const auto [m, n, k] = checked_size(args);
  if (args.mode == GradientMode::ignore) return;
  // A finished fp32 result needs no copy; its blocks must then be whole rows, as the library knows no strides here.
  const bool copied = args.y.dtype() != DType::float32 || args.gelu;
  Dimension along = m >= k ? Dimension::m : Dimension::k;
  if (copied && n > std::max(m, k)) along = Dimension::n;

  const std::int64_t length = along == Dimension::m ? m : along == Dimension::n ? n : k;
  const std::int64_t step = along == Dimension::m ? k + n : along == Dimension::n ? k + m : m + n;
  const std::int64_t extent = block_extent(length, step * static_cast<std::int64_t>(sizeof(float)), block_bytes);
  const std::int64_t block_m = along == Dimension::m ? extent : m;
  const std::int64_t block_n = along == Dimension::n ? extent : n;
  const std::int64_t block_k = along == Dimension::k ? extent : k;

  const bool accumulate = args.mode == GradientMode::accumulate;
  const auto product_of = [&](std::int64_t size, bool first) {
    return OnednnProduct{.m = along == Dimension::m ? size : m,
                         .n = along == Dimension::n ? size : n,
                         .k = along == Dimension::k ? size : k,
                         .transpose_a = args.transpose_a,
                         .transpose_b = args.transpose_b,
                         .operands = DType::float32,
                         .result = DType::float32,
                         .bias = args.bias && (first || along != Dimension::k),
                         .accumulate = accumulate || (!first && along == Dimension::k)};
  };
  std::size_t library_bytes = 0;
  for (std::int64_t begin = 0; begin < length; begin += extent) {
    const OnednnProduct product = product_of(std::min(extent, length - begin), begin == 0);
    require(onednn_supports(product), "matmul", "oneDNN has no fp32 product for this processor");
    library_bytes = std::max(library_bytes, onednn_scratch_bytes(product));
  }
  ScratchPlan plan;
  const std::size_t at_a = plan.add_floats(block_m * block_k);
  const std::size_t at_b = plan.add_floats(block_k * block_n);
  const std::size_t at_y = plan.add_floats(copied ? block_m * block_n : 0);
  const std::size_t at_library = plan.add(library_bytes);
  auto* scratch = static_cast<std::byte*>(stream.scratch(plan.size()));
  auto* const a = reinterpret_cast<float*>(scratch + at_a);
  auto* const b = reinterpret_cast<float*>(scratch + at_b);
  auto* const y = reinterpret_cast<float*>(scratch + at_y);

  for (std::int64_t begin = 0; begin < length; begin += extent) {
    const bool first = begin == 0;
    const bool last = begin + extent >= length;
    const OnednnProduct product = product_of(std::min(extent, length - begin), first);
    const std::int64_t m0 = along == Dimension::m ? begin : 0;
    const std::int64_t n0 = along == Dimension::n ? begin : 0;
    const std::int64_t k0 = along == Dimension::k ? begin : 0;
    // (rows, columns) of the operands as they are stored.
    if (first || along != Dimension::n) {
      const WidenedBlock block =
          args.transpose_a ? WidenedBlock{product.k, product.m, m, a} : WidenedBlock{product.m, product.k, k, a};
      HWY_DYNAMIC_DISPATCH(widen)(args.a, args.transpose_a ? k0 * m + m0 : m0 * k + k0, block);
    }
    if (first || along != Dimension::m) {
      const WidenedBlock block =
          args.transpose_b ? WidenedBlock{product.n, product.k, k, b} : WidenedBlock{product.k, product.n, n, b};
      HWY_DYNAMIC_DISPATCH(widen)(args.b, args.transpose_b ? n0 * k + k0 : k0 * n + n0, block);
    }
    const WidenedBlock result{product.m, product.n, n, y};
    const std::int64_t at = m0 * n + n0;
    if (copied && accumulate && (first || along != Dimension::k)) {
      HWY_DYNAMIC_DISPATCH(widen)(args.y, at, result);
    }
    const float* bias = args.bias ? args.bias.as<float>() + n0 : nullptr;
    onednn_run(product, {a, b, bias, copied ? y : args.y.as<float>() + at, scratch + at_library});
    if (copied && (last || along != Dimension::k)) HWY_DYNAMIC_DISPATCH(finish)(result, args, at);
  }
}

}  // namespace dino::cpu
#endif
