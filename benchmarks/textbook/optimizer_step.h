#pragma once

#include "benchmarks/textbook/step.h"
#include "kernels/optimizer_step/optimizer_step.h"

#include <memory>
#include <vector>

namespace dino::bench::textbook {

/// norms alone.
struct GradientNormsSteps {
  GradientNorms args;
  std::int64_t usual_size;  // of a segment

  [[gnu::weak]] static Call on_gpu(const GradientNormsSteps& steps, Stream& stream);

  template <typename On>
  void run(const On& on) const {
    const OptimizerSegment* segments = args.segments.data();
    const auto* gradient = args.gradient.as<float>();
    float* norms = args.norms.as<float>();
    const auto count = static_cast<std::int64_t>(args.segments.size());
    on.for_rows(count, usual_size, [=] DINO_STEP(const typename On::Row& row, std::int64_t s) {
      const float* g = gradient + segments[s].offset;
      const double sum = row.sum(segments[s].size,
                                 [&](std::int64_t i) { return static_cast<double>(g[i]) * static_cast<double>(g[i]); });
      norms[s] = static_cast<float>(std::sqrt(sum));
    });
  }
};

/// AdamW: decay, both moments of the clipped gradient, the update, the average and the copies, one after the other for
/// each tensor.
struct AdamwSteps {
  OptimizerStep args;
  std::shared_ptr<const std::vector<OptimizerSegment>> segments;  // on the host
  Array factors;                                                  // (S) fp32, that clip

  [[gnu::weak]] static Call on_gpu(const AdamwSteps& steps, Stream& stream);

  template <typename On>
  void run(const On& on) const {
    const auto* norms = args.norms.as<float>();
    auto* factor = factors.as<float>();
    on.for_each(factors.size(), [=, clip = args.clip] DINO_STEP(std::int64_t s) {
      factor[s] = static_cast<float>(clip_factor(clip, static_cast<double>(norms[s])));
    });
    for (const OptimizerSegment& segment : *segments) update(on, segment, factor++);
  }

  template <typename On>
  void update(const On& on, const OptimizerSegment& segment, const float* clip) const {
    const std::int64_t at = segment.offset, n = segment.size;
    const float* gradient = args.gradient.as<float>() + at;
    float *p = args.student.as<float>() + at, *m = args.first_moment.as<float>() + at;
    float *v = args.second_moment.as<float>() + at, *t = args.teacher.as<float>() + at;
    const auto rate = static_cast<float>(segment.learning_rate), beta1 = static_cast<float>(args.beta1),
               beta2 = static_cast<float>(args.beta2), eps = static_cast<float>(args.eps),
               momentum = static_cast<float>(segment.teacher_momentum);
    const float decay = segment.decayed ? 1 - rate * static_cast<float>(segment.weight_decay) : 1;
    const auto step = static_cast<float>(segment.step);
    const float correction1 = 1 - std::pow(beta1, step), correction2 = std::sqrt(1 - std::pow(beta2, step));
    on.for_each(n, [=] DINO_STEP(std::int64_t i) { p[i] *= decay; });
    on.for_each(n, [=] DINO_STEP(std::int64_t i) { m[i] = beta1 * m[i] + (1 - beta1) * *clip * gradient[i]; });
    on.for_each(n, [=] DINO_STEP(std::int64_t i) {
      v[i] = beta2 * v[i] + (1 - beta2) * (*clip * gradient[i]) * (*clip * gradient[i]);
    });
    on.for_each(n, [=] DINO_STEP(std::int64_t i) {
      p[i] -= rate / correction1 * m[i] / (std::sqrt(v[i]) / correction2 + eps);
    });
    on.for_each(n, [=] DINO_STEP(std::int64_t i) { t[i] = momentum * t[i] + (1 - momentum) * p[i]; });
    if (!args.student_working) return;
    auto* p16 = args.student_working.as<BFloat16>() + at;
    auto* t16 = args.teacher_working.as<BFloat16>() + at;
    on.for_each(n, [=] DINO_STEP(std::int64_t i) { p16[i] = put<BFloat16>(p[i]); });
    on.for_each(n, [=] DINO_STEP(std::int64_t i) { t16[i] = put<BFloat16>(t[i]); });
  }
};

}  // namespace dino::bench::textbook
