#include "train/schedules.h"

#include "kernels/common/error.h"

#include <cmath>
#include <numbers>

namespace dino {
namespace {

/// NumPy's linspace: n values from first to last, both included; n = 1 gives first.
void append_linear(std::vector<double>& values, double first, double last, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) {
    const double step = n > 1 ? (last - first) / static_cast<double>(n - 1) : 0.0;
    values.push_back(n > 1 && i == n - 1 ? last : first + static_cast<double>(i) * step);
  }
}

}  // namespace

std::vector<double> cosine_schedule(double base, double final_value, int epochs, std::int64_t steps_per_epoch,
                                    int warmup_epochs) {
  const std::int64_t steps = epochs * steps_per_epoch;
  const std::int64_t warmup_steps = warmup_epochs * steps_per_epoch;
  require(warmup_steps <= steps, "schedules", "the warm-up is longer than the run; got {} of {} epochs", warmup_epochs,
          epochs);
  std::vector<double> values;
  values.reserve(static_cast<std::size_t>(steps));
  append_linear(values, 0.0, base, warmup_steps);
  const auto rest = static_cast<double>(steps - warmup_steps);
  for (std::int64_t i = 0; i < steps - warmup_steps; ++i) {
    const double angle = std::numbers::pi * static_cast<double>(i) / rest;
    values.push_back(final_value + 0.5 * (base - final_value) * (1.0 + std::cos(angle)));
  }
  return values;
}

std::vector<double> temperature_schedule(double warmup, double final_value, int warmup_epochs, int epochs) {
  require(warmup_epochs <= epochs, "schedules", "the temperature's warm-up is longer than the run; got {} of {} epochs",
          warmup_epochs, epochs);
  std::vector<double> values;
  append_linear(values, warmup, final_value, warmup_epochs);
  values.resize(static_cast<std::size_t>(epochs), final_value);
  return values;
}

Schedules make_schedules(const TrainConfig& config, std::int64_t steps_per_epoch, std::int64_t global_batch) {
  const double lr = config.lr * static_cast<double>(global_batch) / 256.0;
  return {
      .lr = cosine_schedule(lr, config.min_lr, config.epochs, steps_per_epoch, config.warmup_epochs),
      .weight_decay = cosine_schedule(config.weight_decay, config.weight_decay_end, config.epochs, steps_per_epoch),
      .momentum = cosine_schedule(config.momentum_teacher, 1.0, config.epochs, steps_per_epoch),
      .teacher_temp = temperature_schedule(config.warmup_teacher_temp, config.teacher_temp,
                                           config.warmup_teacher_temp_epochs, config.epochs),
  };
}

}  // namespace dino
