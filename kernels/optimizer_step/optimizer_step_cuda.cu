#include "kernels/common/cuda/launch.h"
#include "kernels/optimizer_step/optimizer_step.h"

#include <algorithm>

namespace dino::cuda {
namespace {

// The table of segments is on the device, so the host knows their number and not their sizes. Every segment gets
// kSlices blocks, which take chunks of it in turn; of a small one most have nothing to do and end at once.
constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarpSize;
constexpr int kPack = 4;
constexpr int kChunk = kThreads * kPack;
constexpr int kSlices = 256;

/// Σ g², Σ g p, Σ p².
struct Sums {
  double gg, gp, pp;
};

__device__ __forceinline__ Sums warp_sum(Sums sums) {
#pragma unroll
  for (int distance = kWarpSize / 2; distance > 0; distance /= 2) {
    sums.gg += __shfl_xor_sync(kWholeWarp, sums.gg, distance);
    sums.gp += __shfl_xor_sync(kWholeWarp, sums.gp, distance);
    sums.pp += __shfl_xor_sync(kWholeWarp, sums.pp, distance);
  }
  return sums;
}

struct SharedSums {
  Sums of_warp[kWarps];
};

/// Block (slice, segment): sums over the slice's chunks, in an order that depends on the segment's size alone. `p` is
/// null where only Σ g² is wanted. Traffic: reads the gradient (and p) once.
__global__ void __launch_bounds__(kThreads)
    sum_slices(const OptimizerSegment* segments, const float* gradient, const float* p, Sums* partial) {
  const OptimizerSegment& segment = segments[blockIdx.y];
  if (std::int64_t{blockIdx.x} * kChunk >= segment.size) return;
  Sums sums{0, 0, 0};
  for (std::int64_t i = std::int64_t{blockIdx.x} * kChunk + threadIdx.x; i < segment.size;) {
    // kPack elements a chunk and thread, a block's width apart: contiguous reads at any offset.
#pragma unroll
    for (int k = 0; k < kPack; ++k) {
      const std::int64_t at = i + k * kThreads;
      if (at >= segment.size) break;
      const auto g = static_cast<double>(gradient[segment.offset + at]);
      sums.gg += g * g;
      if (p != nullptr) {
        const auto value = static_cast<double>(p[segment.offset + at]);
        sums.gp += g * value;
        sums.pp += value * value;
      }
    }
    i += std::int64_t{kSlices} * kChunk;
  }
  sums = warp_sum(sums);
  auto& shared = shared_memory<SharedSums>();
  if (threadIdx.x % kWarpSize == 0) shared.of_warp[threadIdx.x / kWarpSize] = sums;
  __syncthreads();
  if (threadIdx.x != 0) return;
  for (int warp = 1; warp < kWarps; ++warp) {
    sums.gg += shared.of_warp[warp].gg;
    sums.gp += shared.of_warp[warp].gp;
    sums.pp += shared.of_warp[warp].pp;
  }
  partial[std::int64_t{blockIdx.y} * kSlices + blockIdx.x] = sums;
}

struct Norms {
  const OptimizerSegment* segments;
  int count;
  const Sums* partial;
  float *norms, *parameter_norms, *update_norms;  // the last two null without LARS
  const float* losses;
  int loss_count;
  std::int32_t* non_finite;
  double clip;
};

/// A warp per segment.
__global__ void __launch_bounds__(kThreads) finish_norms(const Norms args) {
  if (blockIdx.x == 0) {
    for (int i = static_cast<int>(threadIdx.x); i < args.loss_count; i += kThreads) {
      if (!isfinite(args.losses[i])) *args.non_finite = 1;
    }
  }
  const int s = static_cast<int>(blockIdx.x) * kWarps + static_cast<int>(threadIdx.x) / kWarpSize;
  if (s >= args.count) return;  // all lanes of a warp together
  const OptimizerSegment& segment = args.segments[s];
  const std::int64_t chunks = (segment.size + kChunk - 1) / kChunk;
  const int slices = chunks < kSlices ? static_cast<int>(chunks) : kSlices;
  Sums sums{0, 0, 0};
  for (int i = static_cast<int>(threadIdx.x) % kWarpSize; i < slices; i += kWarpSize) {
    const Sums& part = args.partial[std::int64_t{s} * kSlices + i];
    sums.gg += part.gg;
    sums.gp += part.gp;
    sums.pp += part.pp;
  }
  sums = warp_sum(sums);
  if (threadIdx.x % kWarpSize != 0) return;
  // Squares of finite fp32 numbers cannot overflow a double: the sum is finite exactly when the gradient is.
  if (segment.active && !isfinite(sums.gg)) *args.non_finite = 1;
  const auto norm = static_cast<float>(sqrt(sums.gg));
  args.norms[s] = norm;
  if (args.update_norms == nullptr) return;
  const double c = clip_factor(args.clip, static_cast<double>(norm));
  const double w = segment.decayed ? segment.weight_decay : 0;
  const double update = c * c * sums.gg + 2 * c * w * sums.gp + w * w * sums.pp;
  args.parameter_norms[s] = static_cast<float>(sqrt(sums.pp));
  args.update_norms[s] = static_cast<float>(sqrt(update < 0 ? 0 : update));  // NaN stays NaN
}

struct Step {
  const OptimizerSegment* segments;
  double clip, beta1, beta2, eps, lars_eta;
  float momentum;
  const std::int32_t* non_finite;  // null: none
  std::int32_t* skipped;           // null: none
  const float *gradient, *norms, *parameter_norms, *update_norms;
  float *student, *first_moment, *second_moment;
  BFloat16* student_working;  // null: none
  float* teacher;             // null: none
  BFloat16* teacher_working;  // null: none
  bool packed;                // arrays begin at multiples of a pack
};

/// What an update needs of its segment, as fp32 factors.
struct Factors {
  float teacher_keep, teacher_follow;
  float clip, decay, rate, adaption;  // all kinds; decay is 1 - λ w for AdamW
  float beta1, rest1, beta2, rest2;   // AdamW; rest is 1 - beta, rounded once
  float root_correction, eps;         // AdamW; 1 / sqrt(1 - β₂ᵏ)
};

template <OptimizerKind kKind>
__device__ Factors segment_factors(const Step& args, const OptimizerSegment& segment, int s) {
  Factors f{};
  f.teacher_keep = static_cast<float>(segment.teacher_momentum);
  f.teacher_follow = static_cast<float>(1 - segment.teacher_momentum);
  if (!segment.active) return f;
  const double weight_decay = segment.decayed ? segment.weight_decay : 0;
  f.clip = args.clip > 0 ? static_cast<float>(clip_factor(args.clip, static_cast<double>(args.norms[s]))) : 1.0F;
  f.rate = static_cast<float>(segment.learning_rate);
  f.decay = static_cast<float>(weight_decay);
  f.adaption = 1.0F;
  if constexpr (kKind == OptimizerKind::adamw) {
    const auto step = static_cast<double>(segment.step - (args.skipped != nullptr ? args.skipped[s] : 0));
    f.rate = static_cast<float>(segment.learning_rate / (1 - pow(args.beta1, step)));
    f.decay = static_cast<float>(1 - segment.learning_rate * weight_decay);
    f.beta1 = static_cast<float>(args.beta1);
    f.rest1 = static_cast<float>(1 - args.beta1);
    f.beta2 = static_cast<float>(args.beta2);
    f.rest2 = static_cast<float>(1 - args.beta2);
    f.root_correction = static_cast<float>(1 / sqrt(1 - pow(args.beta2, step)));
    f.eps = static_cast<float>(args.eps);
  }
  if constexpr (kKind == OptimizerKind::lars) {
    if (!segment.adapted) f.decay = 0;
    const auto parameter_norm = static_cast<double>(args.parameter_norms[s]);
    const auto update_norm = static_cast<double>(args.update_norms[s]);
    if (segment.adapted && parameter_norm > 0 && update_norm > 0) {
      f.adaption = static_cast<float>(args.lars_eta * parameter_norm / update_norm);
    }
  }
  return f;
}

/// N elements of the flat arrays from `at`.
template <OptimizerKind kKind, int N>
__device__ __forceinline__ void update(const Step& args, const Factors& f, bool active, std::int64_t at) {
  float p[N];
  load(args.student + at, p);
  if (active) {
    float g[N];
    float m[N];
    float v[N] = {};
    load(args.gradient + at, g);
    load(args.first_moment + at, m);
    if constexpr (kKind == OptimizerKind::adamw) load(args.second_moment + at, v);
#pragma unroll
    for (int k = 0; k < N; ++k) {
      g[k] *= f.clip;
      if constexpr (kKind == OptimizerKind::adamw) {
        m[k] = f.beta1 * m[k] + f.rest1 * g[k];
        v[k] = f.beta2 * v[k] + f.rest2 * (g[k] * g[k]);
        p[k] = p[k] * f.decay - f.rate * m[k] / (sqrtf(v[k]) * f.root_correction + f.eps);
      } else {
        m[k] = args.momentum * m[k] + (g[k] + f.decay * p[k]) * f.adaption;
        p[k] -= f.rate * m[k];
      }
    }
    store(m, args.first_moment + at);
    if constexpr (kKind == OptimizerKind::adamw) store(v, args.second_moment + at);
    store(p, args.student + at);
    if (args.student_working != nullptr) store(p, args.student_working + at);
  }
  if (args.teacher == nullptr) return;
  float t[N];
  load(args.teacher + at, t);
  // Products are rounded before they are added, as PyTorch does.
#pragma unroll
  for (int k = 0; k < N; ++k) t[k] = __fadd_rn(__fmul_rn(f.teacher_keep, t[k]), __fmul_rn(f.teacher_follow, p[k]));
  store(t, args.teacher + at);
  if (args.teacher_working != nullptr) store(t, args.teacher_working + at);
}

/// Block (slice, segment): everything that happens to an element, in one pass; bound by memory.
template <OptimizerKind kKind>
__global__ void __launch_bounds__(kThreads) update_slices(const Step args) {
  const OptimizerSegment& segment = args.segments[blockIdx.y];
  // The whole block returns, here and in the next line.
  if (args.non_finite != nullptr && *args.non_finite != 0) {
    if (args.skipped != nullptr && segment.active && blockIdx.x == 0 && threadIdx.x == 0) ++args.skipped[blockIdx.y];
    return;
  }
  if (std::int64_t{blockIdx.x} * kChunk >= segment.size) return;
  auto& f = shared_memory<Factors>();
  const bool active = segment.active;
  if (threadIdx.x == 0) f = segment_factors<kKind>(args, segment, static_cast<int>(blockIdx.y));
  __syncthreads();
  const bool packed = args.packed && segment.offset % kPack == 0;
  for (std::int64_t chunk = std::int64_t{blockIdx.x} * kChunk; chunk < segment.size;
       chunk += std::int64_t{kSlices} * kChunk) {
    const std::int64_t mine = chunk + threadIdx.x * kPack;
    if (packed && mine + kPack <= segment.size) {
      update<kKind, kPack>(args, f, active, segment.offset + mine);
      continue;
    }
    for (std::int64_t i = mine; i < mine + kPack && i < segment.size; ++i) {
      update<kKind, 1>(args, f, active, segment.offset + i);
    }
  }
}

}  // namespace

void gradient_norms(const GradientNorms& args, Stream& stream) {
  check_optimizer_step(args);
  const auto count = static_cast<int>(args.segments.size());
  auto* partial =
      static_cast<Sums*>(stream.scratch(std::max<std::size_t>(1, args.segments.size()) * kSlices * sizeof(Sums)));
  launch(sum_slices, {dim3(kSlices, static_cast<unsigned>(count)), kThreads, sizeof(SharedSums)}, stream,
         args.segments.data(), args.gradient.as<float>(), args.student.as<float>(), partial);
  const Norms norms{.segments = args.segments.data(),
                    .count = count,
                    .partial = partial,
                    .norms = args.norms.as<float>(),
                    .parameter_norms = args.parameter_norms.as<float>(),
                    .update_norms = args.student ? args.update_norms.as<float>() : nullptr,
                    .losses = args.losses.as<float>(),
                    .loss_count = static_cast<int>(args.losses.size()),
                    .non_finite = args.non_finite.as<std::int32_t>(),
                    .clip = args.clip};
  launch(finish_norms, {std::max(1U, blocks_for(count, kWarps)), kThreads}, stream, norms);
}

void optimizer_step(const OptimizerStep& args, Stream& stream) {
  check_optimizer_step(args);
  const auto aligned = [](const ConstArray& array) {
    return reinterpret_cast<std::uintptr_t>(array.data()) % (kPack * size_of(array.dtype())) == 0;
  };
  const Step step{.segments = args.segments.data(),
                  .clip = args.clip,
                  .beta1 = args.beta1,
                  .beta2 = args.beta2,
                  .eps = args.eps,
                  .lars_eta = args.lars_eta,
                  .momentum = static_cast<float>(args.momentum),
                  .non_finite = args.non_finite.as<std::int32_t>(),
                  .skipped = args.skipped.as<std::int32_t>(),
                  .gradient = args.gradient.as<float>(),
                  .norms = args.norms.as<float>(),
                  .parameter_norms = args.parameter_norms.as<float>(),
                  .update_norms = args.update_norms.as<float>(),
                  .student = args.student.as<float>(),
                  .first_moment = args.first_moment.as<float>(),
                  .second_moment = args.second_moment.as<float>(),
                  .student_working = args.student_working.as<BFloat16>(),
                  .teacher = args.teacher.as<float>(),
                  .teacher_working = args.teacher_working.as<BFloat16>(),
                  .packed = aligned(args.gradient) && aligned(args.student) && aligned(args.first_moment) &&
                            aligned(args.second_moment) && aligned(args.student_working) && aligned(args.teacher) &&
                            aligned(args.teacher_working)};
  const LaunchShape shape{dim3(kSlices, static_cast<unsigned>(args.segments.size())), kThreads, sizeof(Factors)};
  switch (args.kind) {
    case OptimizerKind::adamw: return launch(update_slices<OptimizerKind::adamw>, shape, stream, step);
    case OptimizerKind::sgd: return launch(update_slices<OptimizerKind::sgd>, shape, stream, step);
    case OptimizerKind::lars: return launch(update_slices<OptimizerKind::lars>, shape, stream, step);
  }
}

}  // namespace dino::cuda
