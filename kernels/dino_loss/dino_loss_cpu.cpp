#include "kernels/common/parallel.h"
#include "kernels/dino_loss/dino_loss.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/dino_loss/dino_loss_cpu.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/common/simd-inl.h"
#include "kernels/common/simd_exp2-inl.h"

#ifndef DINO_DINO_LOSS_CPU_ONCE
#define DINO_DINO_LOSS_CPU_ONCE
namespace dino::cpu {

/// Columns handled at a time: a block of every array involved stays in the first-level cache.
inline constexpr std::int64_t kBlock = 1024;

/// Σ_k exp((x_k - maximum) · scale) is `sum`.
struct RowStatistics {
  float maximum;
  float sum;
};
/// Contributions of one block of columns, summed over images.
struct BlockSums {
  double loss;
  double entropy;
};

}  // namespace dino::cpu
#endif

HWY_BEFORE_NAMESPACE();
namespace dino::cpu::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;
namespace sm = simd::HWY_NAMESPACE;
using sm::FloatTag;
using sm::FloatVector;

/// One block of a row as fp32, minus `shift` where there is one. Shorter blocks are not padded.
template <typename T>
HWY_INLINE FloatVector load_shifted(FloatTag d, const T* x, const float* shift, std::int64_t k) {
  const FloatVector value = sm::load(d, x + k);
  return shift == nullptr ? value : hn::Sub(value, hn::LoadU(d, shift + k));
}

/// Maximum and sum of 2^((x - maximum) · scale) of a row in one reading: per block, the running sum moves to the new
/// maximum.
template <typename T>
RowStatistics row_statistics(const T* x, const float* shift, std::int64_t columns, float scale) {
  const FloatTag d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  const FloatVector vscale = hn::Set(d, scale);
  float maximum = std::numeric_limits<float>::lowest();
  double sum = 0;
  for (std::int64_t begin = 0; begin < columns; begin += kBlock) {
    const std::int64_t end = std::min(columns, begin + kBlock);
    const std::int64_t vector_end = begin + (end - begin) / lanes * lanes;
    float block_maximum = std::numeric_limits<float>::lowest();
    FloatVector vmax = hn::Set(d, block_maximum);
    for (std::int64_t k = begin; k < vector_end; k += lanes) vmax = hn::Max(vmax, load_shifted(d, x, shift, k));
    block_maximum = hn::GetLane(hn::MaxOfLanes(d, vmax));
    for (std::int64_t k = vector_end; k < end; ++k) {
      block_maximum = std::max(block_maximum, static_cast<float>(x[k]) - (shift == nullptr ? 0.0F : shift[k]));
    }
    // Written so that NaN becomes the maximum; where the vector maximum has dropped it, the sum still holds it.
    if (!(block_maximum <= maximum)) {
      sum *=
          std::exp2((static_cast<double>(maximum) - static_cast<double>(block_maximum)) * static_cast<double>(scale));
      maximum = block_maximum;
    }
    const FloatVector vmaximum = hn::Set(d, maximum);
    FloatVector vsum = hn::Zero(d);
    for (std::int64_t k = begin; k < vector_end; k += lanes) {
      vsum = hn::Add(vsum, sm::exp2(d, hn::Mul(hn::Sub(load_shifted(d, x, shift, k), vmaximum), vscale)));
    }
    float block_sum = hn::GetLane(hn::SumOfLanes(d, vsum));
    for (std::int64_t k = vector_end; k < end; ++k) {
      const float value = static_cast<float>(x[k]) - (shift == nullptr ? 0.0F : shift[k]);
      block_sum += hn::GetLane(sm::exp2(d, hn::Set(d, (value - maximum) * scale)));
    }
    sum += static_cast<double>(block_sum);
  }
  return {maximum, static_cast<float>(sum)};
}

/// t[0, n) = softmax((z - shift) scale ...) of a block from the row's statistics. Returns Σ t · (maximum - x).
template <typename T>
double teacher_block(const T* z, const float* center, RowStatistics row, float scale, std::int64_t n, float* t,
                     float* column_sum, bool first_row) {
  const FloatTag d;
  const std::size_t lanes = hn::Lanes(d);
  const FloatVector vmaximum = hn::Set(d, row.maximum);
  const FloatVector vscale = hn::Set(d, scale);
  const FloatVector norm = hn::Set(d, 1.0F / row.sum);
  FloatVector dot = hn::Zero(d);
  const auto step = [&](FloatVector raw, FloatVector c, FloatVector sum) {
    const FloatVector below = hn::Sub(vmaximum, hn::Sub(raw, c));
    const FloatVector probability = hn::Mul(sm::exp2(d, hn::Neg(hn::Mul(below, vscale))), norm);
    dot = hn::MulAdd(probability, below, dot);
    return std::pair(probability, hn::Add(sum, raw));
  };
  std::size_t k = 0;
  const auto count = static_cast<std::size_t>(n);
  for (; k + lanes <= count; k += lanes) {
    const auto [probability, sum] =
        step(sm::load(d, z + k), hn::LoadU(d, center + k), first_row ? hn::Zero(d) : hn::LoadU(d, column_sum + k));
    hn::StoreU(probability, d, t + k);
    hn::StoreU(sum, d, column_sum + k);
  }
  double total = 0;
  if (k < count) {
    // Padding lanes would count in the dot product: they are cleared with it.
    const FloatVector before = dot;
    dot = hn::Zero(d);
    const auto [probability, sum] = step(sm::load_tail(d, z + k, count - k), sm::load_tail(d, center + k, count - k),
                                         first_row ? hn::Zero(d) : sm::load_tail(d, column_sum + k, count - k));
    sm::store_tail(d, probability, t + k, count - k);
    sm::store_tail(d, sum, column_sum + k, count - k);
    total = static_cast<double>(hn::GetLane(hn::SumOfLanes(d, hn::IfThenElseZero(hn::FirstN(d, count - k), dot))));
    dot = before;
  }
  return total + static_cast<double>(hn::GetLane(hn::SumOfLanes(d, dot)));
}

/// gradient = softmax · to_probability - target · to_target of a block. Returns Σ target · (maximum - s).
template <bool kGradient, typename T>
double student_block(const T* s, RowStatistics row, float scale, float to_probability, float to_target,
                     const float* target, std::int64_t n, T* gradient) {
  const FloatTag d;
  const std::size_t lanes = hn::Lanes(d);
  const FloatVector vmaximum = hn::Set(d, row.maximum);
  const FloatVector vscale = hn::Set(d, scale);
  const FloatVector vprobability = hn::Set(d, to_probability / row.sum);
  const FloatVector vtarget = hn::Set(d, to_target);
  FloatVector dot = hn::Zero(d);
  const auto step = [&](FloatVector x, FloatVector wanted) {
    const FloatVector below = hn::Sub(vmaximum, x);
    dot = hn::MulAdd(wanted, below, dot);
    if constexpr (!kGradient) return below;
    const FloatVector e = sm::exp2(d, hn::Neg(hn::Mul(below, vscale)));
    return hn::NegMulAdd(wanted, vtarget, hn::Mul(e, vprobability));
  };
  std::size_t k = 0;
  const auto count = static_cast<std::size_t>(n);
  for (; k + lanes <= count; k += lanes) {
    const FloatVector g = step(sm::load(d, s + k), hn::LoadU(d, target + k));
    if constexpr (kGradient) sm::store(d, g, gradient + k);
  }
  if (k < count) {
    // The target is zero in the padding lanes, so they add nothing.
    const FloatVector g = step(sm::load_tail(d, s + k, count - k), sm::load_tail(d, target + k, count - k));
    if constexpr (kGradient) sm::store_tail(d, g, gradient + k, count - k);
  }
  return static_cast<double>(hn::GetLane(hn::SumOfLanes(d, dot)));
}

/// target = Σ_i t_i without view `except`; t is (views, kBlock).
void sum_targets(const float* t, std::int64_t views, std::int64_t except, std::int64_t n, float* target) {
  const FloatTag d;
  // Whole vectors: both blocks have room, what lies behind n is never read.
  for (std::int64_t k = 0; k < n; k += static_cast<std::int64_t>(hn::Lanes(d))) {
    FloatVector sum = hn::Zero(d);
    for (std::int64_t i = 0; i < views; ++i) {
      if (i != except) sum = hn::Add(sum, hn::Load(d, t + i * kBlock + k));
    }
    hn::Store(sum, d, target + k);
  }
}

template <typename Student, typename Teacher>
void all_statistics(const DinoLossWithGradient& args, const DinoLossSizes& sizes, float student_scale,
                    float teacher_scale, RowStatistics* rows) {
  const std::int64_t student_rows = sizes.student_views * sizes.images;
  const std::int64_t teacher_rows = sizes.teacher_views * sizes.images;
  parallel_for(student_rows + teacher_rows, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      if (row < student_rows) {
        rows[row] = row_statistics(args.student.as<Student>() + row * sizes.columns, static_cast<const float*>(nullptr),
                                   sizes.columns, student_scale);
      } else {
        rows[row] = row_statistics(args.teacher.as<Teacher>() + (row - student_rows) * sizes.columns,
                                   args.center.as<float>(), sizes.columns, teacher_scale);
      }
    }
  });
}

/// Loss, entropy, column sums and gradient of the columns [begin, begin + n) for all images.
template <typename Student, typename Teacher>
BlockSums block_of_columns(const DinoLossWithGradient& args, const DinoLossSizes& sizes, float student_scale,
                           float teacher_scale, const RowStatistics* rows, std::int64_t begin, std::int64_t n) {
  HWY_ALIGN float t[kMaxTeacherViews * kBlock];
  HWY_ALIGN float target[kBlock];
  const auto [images, student_views, teacher_views, columns] = sizes;
  const RowStatistics* teacher_rows = rows + student_views * images;
  const double unit = args.gradient_scale / (args.student_temperature * static_cast<double>(sizes.pairs() * images));
  BlockSums sums{0, 0};
  for (std::int64_t b = 0; b < images; ++b) {
    for (std::int64_t i = 0; i < teacher_views; ++i) {
      const std::int64_t row = i * images + b;
      sums.entropy += teacher_block(args.teacher.as<Teacher>() + row * columns + begin, args.center.as<float>() + begin,
                                    teacher_rows[row], teacher_scale, n, t + i * kBlock,
                                    args.teacher_sum.as<float>() + begin, b == 0 && i == 0);
    }
    for (std::int64_t v = 0; v < student_views; ++v) {
      if (v <= teacher_views) sum_targets(t, teacher_views, v, n, target);
      const std::int64_t row = v * images + b;
      const std::int64_t pairs = teacher_views - (v < teacher_views ? 1 : 0);
      const Student* s = args.student.as<Student>() + row * columns + begin;
      if (args.student_gradient) {
        sums.loss += student_block<true>(
            s, rows[row], student_scale, static_cast<float>(unit * static_cast<double>(pairs)),
            static_cast<float>(unit), target, n, args.student_gradient.as<Student>() + row * columns + begin);
      } else {
        sums.loss +=
            student_block<false>(s, rows[row], student_scale, 0.0F, 0.0F, target, n, static_cast<Student*>(nullptr));
      }
    }
  }
  return sums;
}

template <typename Student, typename Teacher>
void dino_loss_typed(const DinoLossWithGradient& args, Stream& stream) {
  const DinoLossSizes sizes = check_dino_loss(args);
  const auto [images, student_views, teacher_views, columns] = sizes;
  const auto student_scale = static_cast<float>(std::numbers::log2e / args.student_temperature);
  const auto teacher_scale = static_cast<float>(std::numbers::log2e / args.teacher_temperature);
  const std::int64_t row_count = (student_views + teacher_views) * images;
  const std::int64_t block_count = (columns + kBlock - 1) / kBlock;
  auto* blocks = static_cast<BlockSums*>(stream.scratch(static_cast<std::size_t>(block_count) * sizeof(BlockSums) +
                                                        static_cast<std::size_t>(row_count) * sizeof(RowStatistics)));
  auto* rows = reinterpret_cast<RowStatistics*>(blocks + block_count);

  all_statistics<Student, Teacher>(args, sizes, student_scale, teacher_scale, rows);
  parallel_for(block_count, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t block = begin; block < end; ++block) {
      const std::int64_t first = block * kBlock;
      blocks[block] = block_of_columns<Student, Teacher>(args, sizes, student_scale, teacher_scale, rows, first,
                                                         std::min(kBlock, columns - first));
    }
  });

  // -Σ t ln p = ln(sum) + Σ t (maximum - x) / temperature, all of it non-negative.
  BlockSums total{0, 0};
  for (std::int64_t block = 0; block < block_count; ++block) {
    total.loss += blocks[block].loss;
    total.entropy += blocks[block].entropy;
  }
  total.loss /= args.student_temperature;
  total.entropy /= args.teacher_temperature;
  for (std::int64_t row = 0; row < row_count; ++row) {
    const double log_sum = std::log(static_cast<double>(rows[row].sum));
    if (row < student_views * images) {
      total.loss += log_sum * static_cast<double>(teacher_views - (row < teacher_views * images ? 1 : 0));
    } else {
      total.entropy += log_sum;
    }
  }
  total.loss /= static_cast<double>(sizes.pairs() * images);
  total.entropy /= static_cast<double>(teacher_views * images);
  *args.loss.as<float>() = static_cast<float>(total.loss);
  *args.teacher_entropy.as<float>() = static_cast<float>(total.entropy);
  *args.kl.as<float>() = static_cast<float>(total.loss - total.entropy);
}

void dino_loss_all(const DinoLossWithGradient& args, Stream& stream) {
  visit_compute_type(args.student.dtype(), "dino_loss", [&](auto student) {
    visit_compute_type(args.teacher.dtype(), "dino_loss",
                       [&](auto teacher) { dino_loss_typed<decltype(student), decltype(teacher)>(args, stream); });
  });
}

}  // namespace dino::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dino::cpu {

HWY_EXPORT(dino_loss_all);

void dino_loss_with_gradient(const DinoLossWithGradient& args, Stream& stream) {
  HWY_DYNAMIC_DISPATCH(dino_loss_all)(args, stream);
}

void center_update(const CenterUpdate& args, Stream&) {
  check_center_update(args);
  if (args.non_finite && *args.non_finite.as<std::int32_t>() != 0) return;
  const float* sum = args.sum.as<float>();
  float* center = args.center.as<float>();
  const auto keep = static_cast<float>(args.momentum);
  const auto add = static_cast<float>((1 - args.momentum) / static_cast<double>(args.rows));
  for (std::int64_t k = 0; k < args.center.size(); ++k) center[k] = keep * center[k] + add * sum[k];
}

}  // namespace dino::cpu
#endif
