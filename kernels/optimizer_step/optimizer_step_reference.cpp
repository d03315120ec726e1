#include "kernels/optimizer_step/optimizer_step.h"

#include <cmath>

namespace dino::reference {

void gradient_norms(const GradientNorms& args) {
  for (std::int64_t i = 0; i < args.losses.size(); ++i) {
    if (!std::isfinite(load_double(args.losses, i))) *args.non_finite.as<std::int32_t>() = 1;
  }
  for (std::size_t s = 0; s < args.segments.size(); ++s) {
    const OptimizerSegment& segment = args.segments[s];
    const auto at = static_cast<std::int64_t>(s);
    double square = 0;
    for (std::int64_t i = segment.offset; i < segment.offset + segment.size; ++i) {
      const double g = load_double(args.gradient, i);
      square += g * g;
      if (segment.active && !std::isfinite(g)) *args.non_finite.as<std::int32_t>() = 1;
    }
    store_double(args.norms, at, std::sqrt(square));
    if (!args.student) continue;
    const double factor = clip_factor(args.clip, std::sqrt(square));
    double parameter_square = 0;
    double update_square = 0;
    for (std::int64_t i = segment.offset; i < segment.offset + segment.size; ++i) {
      const double p = load_double(args.student, i);
      const double update = factor * load_double(args.gradient, i) + (segment.decayed ? segment.weight_decay : 0) * p;
      parameter_square += p * p;
      update_square += update * update;
    }
    store_double(args.parameter_norms, at, std::sqrt(parameter_square));
    store_double(args.update_norms, at, std::sqrt(update_square));
  }
}

namespace {

void update_segment(const OptimizerStep& args, std::size_t s) {
  const OptimizerSegment& segment = args.segments[s];
  const auto at = static_cast<std::int64_t>(s);
  const auto updates = static_cast<double>(segment.step) - (args.skipped ? args.skipped.as<std::int32_t>()[s] : 0);
  const double factor = args.clip > 0 ? clip_factor(args.clip, load_double(args.norms, at)) : 1;
  const double decay = segment.decayed ? segment.weight_decay : 0;
  for (std::int64_t i = segment.offset; i < segment.offset + segment.size; ++i) {
    double p = load_double(args.student, i);
    double g = factor * load_double(args.gradient, i);
    double m = load_double(args.first_moment, i);
    if (args.kind == OptimizerKind::adamw) {
      p *= 1 - segment.learning_rate * decay;
      m = args.beta1 * m + (1 - args.beta1) * g;
      const double v = args.beta2 * load_double(args.second_moment, i) + (1 - args.beta2) * g * g;
      const double corrected_m = m / (1 - std::pow(args.beta1, updates));
      const double corrected_v = v / (1 - std::pow(args.beta2, updates));
      p -= segment.learning_rate * corrected_m / (std::sqrt(corrected_v) + args.eps);
      store_double(args.second_moment, i, v);
    } else {
      if (args.kind == OptimizerKind::sgd) {
        g += decay * p;
      } else if (segment.adapted) {
        const double parameter_norm = load_double(args.parameter_norms, at);
        const double update_norm = load_double(args.update_norms, at);
        g += decay * p;
        if (parameter_norm > 0 && update_norm > 0) g *= args.lars_eta * parameter_norm / update_norm;
      }
      m = args.momentum * m + g;
      p -= segment.learning_rate * m;
    }
    store_double(args.first_moment, i, m);
    store_double(args.student, i, p);
    if (args.student_working) store_double(args.student_working, i, p);
  }
}

}  // namespace

void optimizer_step(const OptimizerStep& args) {
  if (args.non_finite && *args.non_finite.as<std::int32_t>() != 0) {
    for (std::size_t s = 0; args.skipped && s < args.segments.size(); ++s) {
      if (args.segments[s].active) ++args.skipped.as<std::int32_t>()[s];
    }
    return;
  }
  for (std::size_t s = 0; s < args.segments.size(); ++s) {
    const OptimizerSegment& segment = args.segments[s];
    if (segment.active) update_segment(args, s);
    if (!args.teacher) continue;
    for (std::int64_t i = segment.offset; i < segment.offset + segment.size; ++i) {
      const double t = segment.teacher_momentum * load_double(args.teacher, i) +
                       (1 - segment.teacher_momentum) * load_double(args.student, i);
      store_double(args.teacher, i, t);
      if (args.teacher_working) store_double(args.teacher_working, i, t);
    }
  }
}

}  // namespace dino::reference
