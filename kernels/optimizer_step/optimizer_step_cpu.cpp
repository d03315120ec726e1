#include "kernels/common/parallel.h"
#include "kernels/optimizer_step/optimizer_step.h"

#include <algorithm>
#include <cmath>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/optimizer_step/optimizer_step_cpu.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/common/simd-inl.h"

#ifndef DINO_OPTIMIZER_STEP_CPU_ONCE
#define DINO_OPTIMIZER_STEP_CPU_ONCE
namespace dino::cpu {

/// Segments are worked on in pieces of this many elements, the last of a segment being shorter: the unit of work of a
/// thread, and of the sums, which therefore do not depend on the number of threads.
inline constexpr std::int64_t kPiece = 1 << 14;
/// Within a piece, the update and the teacher take turns on blocks that stay in the first-level cache.
inline constexpr std::int64_t kBlock = 1024;

/// Σ g², Σ g p, Σ p² of a piece.
struct Sums {
  double gg, gp, pp;
};

/// Calls `body(segment, piece, begin, end)` for all pieces, in parallel; [begin, end) are elements of the flat arrays.
/// `first_piece` (S + 1) says where each segment's pieces start.
template <typename Body>
void for_each_piece(std::span<const OptimizerSegment> segments, const std::int64_t* first_piece, const Body& body) {
  parallel_for(first_piece[segments.size()], 2, [&](std::int64_t begin, std::int64_t end) {
    std::size_t s = static_cast<std::size_t>(std::upper_bound(first_piece, first_piece + segments.size() + 1, begin) -
                                             first_piece) -
                    1;
    for (std::int64_t piece = begin; piece < end; ++piece) {
      while (piece >= first_piece[s + 1]) ++s;
      const OptimizerSegment& segment = segments[s];
      const std::int64_t from = (piece - first_piece[s]) * kPiece;
      body(s, piece, segment.offset + from, segment.offset + std::min(segment.size, from + kPiece));
    }
  });
}

/// What an update needs of its segment, as fp32 factors.
struct Factors {
  float clip, decay, rate, adaption;  // all kinds; decay is 1 - λ w for AdamW
  float beta1, rest1, beta2, rest2;   // AdamW; rest is 1 - beta, rounded once
  float root_correction, eps;         // AdamW; 1 / sqrt(1 - β₂ᵏ)
};

/// Updates of segment s, this one included.
inline std::int64_t updates_of(const OptimizerStep& args, std::size_t s) {
  return args.segments[s].step - (args.skipped ? args.skipped.as<std::int32_t>()[s] : 0);
}

inline Factors segment_factors(const OptimizerStep& args, std::size_t s) {
  const OptimizerSegment& segment = args.segments[s];
  const double weight_decay = segment.decayed ? segment.weight_decay : 0;
  Factors f{};
  f.clip =
      args.clip > 0 ? static_cast<float>(clip_factor(args.clip, static_cast<double>(args.norms.as<float>()[s]))) : 1.0F;
  f.rate = static_cast<float>(segment.learning_rate);
  f.decay = static_cast<float>(weight_decay);
  f.adaption = 1.0F;
  if (args.kind == OptimizerKind::adamw) {
    const auto step = static_cast<double>(updates_of(args, s));
    f.rate = static_cast<float>(segment.learning_rate / (1 - std::pow(args.beta1, step)));
    f.decay = static_cast<float>(1 - segment.learning_rate * weight_decay);
    f.beta1 = static_cast<float>(args.beta1);
    f.rest1 = static_cast<float>(1 - args.beta1);
    f.beta2 = static_cast<float>(args.beta2);
    f.rest2 = static_cast<float>(1 - args.beta2);
    f.root_correction = static_cast<float>(1 / std::sqrt(1 - std::pow(args.beta2, step)));
    f.eps = static_cast<float>(args.eps);
  } else if (args.kind == OptimizerKind::lars) {
    if (!segment.adapted) f.decay = 0;
    const auto parameter_norm = static_cast<double>(args.parameter_norms.as<float>()[s]);
    const auto update_norm = static_cast<double>(args.update_norms.as<float>()[s]);
    if (segment.adapted && parameter_norm > 0 && update_norm > 0) {
      f.adaption = static_cast<float>(args.lars_eta * parameter_norm / update_norm);
    }
  }
  return f;
}

}  // namespace dino::cpu
#endif

HWY_BEFORE_NAMESPACE();
namespace dino::cpu::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;
namespace sm = simd::HWY_NAMESPACE;
using sm::FloatTag;
using sm::FloatVector;

/// A vector of which the first n elements exist; n may exceed the vector's length.
HWY_INLINE FloatVector load_part(FloatTag d, const float* p, std::int64_t n) {
  return n >= static_cast<std::int64_t>(hn::Lanes(d)) ? sm::load(d, p)
                                                      : sm::load_tail(d, p, static_cast<std::size_t>(n));
}
template <typename T>
HWY_INLINE void store_part(FloatTag d, FloatVector v, T* p, std::int64_t n) {
  if (n >= static_cast<std::int64_t>(hn::Lanes(d))) {
    sm::store(d, v, p);
  } else {
    sm::store_tail(d, v, p, static_cast<std::size_t>(n));
  }
}

Sums piece_sums(const float* g, const float* p, std::int64_t n) {
  const hn::ScalableTag<double> d;
  const hn::Rebind<float, hn::ScalableTag<double>> half;
  using Vector = hn::Vec<hn::ScalableTag<double>>;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  Vector gg0 = hn::Zero(d), gg1 = gg0, gg2 = gg0, gg3 = gg0, gp = gg0, pp = gg0;
  const auto at = [&](const float* x, std::int64_t i) { return hn::PromoteTo(d, hn::LoadU(half, x + i)); };
  std::int64_t i = 0;
  if (p == nullptr) {
    // Four sums hide the latency of their additions.
    for (; i + 4 * lanes <= n; i += 4 * lanes) {
      const Vector a = at(g, i), b = at(g, i + lanes), c = at(g, i + 2 * lanes), e = at(g, i + 3 * lanes);
      gg0 = hn::MulAdd(a, a, gg0);
      gg1 = hn::MulAdd(b, b, gg1);
      gg2 = hn::MulAdd(c, c, gg2);
      gg3 = hn::MulAdd(e, e, gg3);
    }
  } else {
    for (; i + lanes <= n; i += lanes) {
      const Vector a = at(g, i), b = at(p, i);
      gg0 = hn::MulAdd(a, a, gg0);
      gp = hn::MulAdd(a, b, gp);
      pp = hn::MulAdd(b, b, pp);
    }
  }
  const auto sum = [&](Vector v) { return hn::GetLane(hn::SumOfLanes(d, v)); };
  Sums sums{sum(hn::Add(hn::Add(gg0, gg1), hn::Add(gg2, gg3))), sum(gp), sum(pp)};
  for (; i < n; ++i) {
    const auto a = static_cast<double>(g[i]);
    const double b = p == nullptr ? 0 : static_cast<double>(p[i]);
    sums.gg += a * a;
    sums.gp += a * b;
    sums.pp += b * b;
  }
  return sums;
}

void gradient_norms_all(const GradientNorms& args, const std::int64_t* first_piece, Sums* sums) {
  const float* g = args.gradient.as<float>();
  const float* p = args.student.as<float>();
  for_each_piece(args.segments, first_piece,
                 [&](std::size_t, std::int64_t piece, std::int64_t begin, std::int64_t end) {
                   sums[piece] = piece_sums(g + begin, p == nullptr ? nullptr : p + begin, end - begin);
                 });
}

void adamw_block(const Factors& f, const float* gradient, float* student, float* first_moment, float* second_moment,
                 std::int64_t n) {
  const FloatTag d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  const FloatVector clip = hn::Set(d, f.clip), decay = hn::Set(d, f.decay), rate = hn::Set(d, f.rate);
  const FloatVector beta1 = hn::Set(d, f.beta1), rest1 = hn::Set(d, f.rest1);
  const FloatVector beta2 = hn::Set(d, f.beta2), rest2 = hn::Set(d, f.rest2);
  const FloatVector root = hn::Set(d, f.root_correction), eps = hn::Set(d, f.eps);
  for (std::int64_t k = 0; k < n; k += lanes) {
    const FloatVector g = hn::Mul(load_part(d, gradient + k, n - k), clip);
    const FloatVector m = hn::MulAdd(rest1, g, hn::Mul(beta1, load_part(d, first_moment + k, n - k)));
    const FloatVector v = hn::MulAdd(hn::Mul(rest2, g), g, hn::Mul(beta2, load_part(d, second_moment + k, n - k)));
    const FloatVector denominator = hn::MulAdd(hn::Sqrt(v), root, eps);
    const FloatVector p = hn::Mul(decay, load_part(d, student + k, n - k));
    store_part(d, m, first_moment + k, n - k);
    store_part(d, v, second_moment + k, n - k);
    store_part(d, hn::NegMulAdd(rate, hn::Div(m, denominator), p), student + k, n - k);
  }
}

/// SGD and LARS: g = (clip · gradient + decay · p) · adaption.
void momentum_block(const Factors& f, float momentum, const float* gradient, float* student, float* first_moment,
                    std::int64_t n) {
  const FloatTag d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  const FloatVector clip = hn::Set(d, f.clip), decay = hn::Set(d, f.decay), rate = hn::Set(d, f.rate);
  const FloatVector adaption = hn::Set(d, f.adaption), keep = hn::Set(d, momentum);
  for (std::int64_t k = 0; k < n; k += lanes) {
    const FloatVector p = load_part(d, student + k, n - k);
    const FloatVector g = hn::MulAdd(decay, p, hn::Mul(load_part(d, gradient + k, n - k), clip));
    const FloatVector m = hn::MulAdd(g, adaption, hn::Mul(keep, load_part(d, first_moment + k, n - k)));
    store_part(d, m, first_moment + k, n - k);
    store_part(d, hn::NegMulAdd(rate, m, p), student + k, n - k);
  }
}

void teacher_block(float keep, float follow, const float* student, float* teacher, BFloat16* working, std::int64_t n) {
  const FloatTag d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  const FloatVector vkeep = hn::Set(d, keep), vfollow = hn::Set(d, follow);
  for (std::int64_t k = 0; k < n; k += lanes) {
    const FloatVector t =
        hn::Add(hn::Mul(vfollow, load_part(d, student + k, n - k)), hn::Mul(vkeep, load_part(d, teacher + k, n - k)));
    store_part(d, t, teacher + k, n - k);
    if (working != nullptr) store_part(d, t, working + k, n - k);
  }
}

void cast_block(const float* from, BFloat16* to, std::int64_t n) {
  const FloatTag d;
  for (std::int64_t k = 0; k < n; k += static_cast<std::int64_t>(hn::Lanes(d)))
    store_part(d, load_part(d, from + k, n - k), to + k, n - k);
}

void optimizer_step_all(const OptimizerStep& args, const std::int64_t* first_piece) {
  const auto momentum = static_cast<float>(args.momentum);
  const float* gradient = args.gradient.as<float>();
  float* student = args.student.as<float>();
  float* m = args.first_moment.as<float>();
  float* v = args.second_moment.as<float>();
  for_each_piece(args.segments, first_piece,
                 [&](std::size_t s, std::int64_t, std::int64_t piece_begin, std::int64_t piece_end) {
                   const bool active = args.segments[s].active;
                   const auto keep = static_cast<float>(args.segments[s].teacher_momentum);
                   const auto follow = static_cast<float>(1 - args.segments[s].teacher_momentum);
                   const Factors f = active ? segment_factors(args, s) : Factors{};
                   for (std::int64_t i = piece_begin; i < piece_end; i += kBlock) {
                     const std::int64_t n = std::min(kBlock, piece_end - i);
                     if (active) {
                       if (args.kind == OptimizerKind::adamw) {
                         adamw_block(f, gradient + i, student + i, m + i, v + i, n);
                       } else {
                         momentum_block(f, momentum, gradient + i, student + i, m + i, n);
                       }
                       if (args.student_working) cast_block(student + i, args.student_working.as<BFloat16>() + i, n);
                     }
                     if (args.teacher) {
                       BFloat16* working = args.teacher_working ? args.teacher_working.as<BFloat16>() + i : nullptr;
                       teacher_block(keep, follow, student + i, args.teacher.as<float>() + i, working, n);
                     }
                   }
                 });
}

}  // namespace dino::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace dino::cpu {
namespace {

/// Fills first_piece (S + 1) and checks the table against flat arrays of n elements.
void number_pieces(std::span<const OptimizerSegment> segments, std::int64_t n, std::int64_t* first_piece) {
  std::int64_t end = 0;
  first_piece[0] = 0;
  for (std::size_t s = 0; s < segments.size(); ++s) {
    const OptimizerSegment& segment = segments[s];
    require(segment.offset >= end && segment.size >= 0 && segment.size <= n - segment.offset, "optimizer_step",
            "segment {} [{}, {}) overlaps the one before it or leaves the arrays of {} elements", s, segment.offset,
            segment.offset + segment.size, n);
    end = segment.offset + segment.size;
    first_piece[s + 1] = first_piece[s] + (segment.size + kPiece - 1) / kPiece;
  }
}

/// An upper bound for the number of pieces.
std::size_t max_pieces(std::span<const OptimizerSegment> segments, std::int64_t n) {
  return segments.size() + static_cast<std::size_t>(n / kPiece) + 1;
}

}  // namespace

HWY_EXPORT(gradient_norms_all);
HWY_EXPORT(optimizer_step_all);

void gradient_norms(const GradientNorms& args, Stream& stream) {
  check_optimizer_step(args);
  const std::int64_t n = args.gradient.size();
  auto* sums = static_cast<Sums*>(
      stream.scratch(max_pieces(args.segments, n) * sizeof(Sums) + (args.segments.size() + 1) * sizeof(std::int64_t)));
  auto* first_piece = reinterpret_cast<std::int64_t*>(sums + max_pieces(args.segments, n));
  number_pieces(args.segments, n, first_piece);
  HWY_DYNAMIC_DISPATCH(gradient_norms_all)(args, first_piece, sums);

  const auto is_finite = [](float value) { return std::isfinite(value); };
  bool non_finite = !std::all_of(args.losses.as<float>(), args.losses.as<float>() + args.losses.size(), is_finite);
  for (std::size_t s = 0; s < args.segments.size(); ++s) {
    Sums total{0, 0, 0};
    for (std::int64_t piece = first_piece[s]; piece < first_piece[s + 1]; ++piece) {
      total.gg += sums[piece].gg;
      total.gp += sums[piece].gp;
      total.pp += sums[piece].pp;
    }
    // Squares of finite fp32 numbers cannot overflow a double: the sum is finite exactly when the gradient is.
    if (args.segments[s].active && !std::isfinite(total.gg)) non_finite = true;
    const auto norm = static_cast<float>(std::sqrt(total.gg));
    args.norms.as<float>()[s] = norm;
    if (args.student) {
      const double c = clip_factor(args.clip, static_cast<double>(norm));
      const double w = args.segments[s].decayed ? args.segments[s].weight_decay : 0;
      const double update = c * c * total.gg + 2 * c * w * total.gp + w * w * total.pp;
      args.parameter_norms.as<float>()[s] = static_cast<float>(std::sqrt(total.pp));
      args.update_norms.as<float>()[s] = static_cast<float>(std::sqrt(update > 0 || std::isnan(update) ? update : 0));
    }
  }
  if (non_finite) *args.non_finite.as<std::int32_t>() = 1;
}

void optimizer_step(const OptimizerStep& args, Stream& stream) {
  check_optimizer_step(args);
  for (std::size_t s = 0; s < args.segments.size(); ++s) {
    const OptimizerSegment& segment = args.segments[s];
    require(args.kind != OptimizerKind::adamw || !segment.active || updates_of(args, s) >= 1, "optimizer_step",
            "AdamW counts steps from 1; got {} for the segment at {}", updates_of(args, s), segment.offset);
  }
  if (args.non_finite && *args.non_finite.as<std::int32_t>() != 0) {
    for (std::size_t s = 0; args.skipped && s < args.segments.size(); ++s) {
      if (args.segments[s].active) ++args.skipped.as<std::int32_t>()[s];
    }
    return;
  }
  auto* first_piece = static_cast<std::int64_t*>(stream.scratch((args.segments.size() + 1) * sizeof(std::int64_t)));
  number_pieces(args.segments, args.student.size(), first_piece);
  HWY_DYNAMIC_DISPATCH(optimizer_step_all)(args, first_piece);
}

}  // namespace dino::cpu
#endif
