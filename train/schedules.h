#pragma once

#include "train/config.h"

#include <cstdint>
#include <vector>

namespace dino {

/// Linear from 0 to `base` over the first warmup_epochs · steps_per_epoch steps, both ends included, then half a cosine
/// from `base` towards `final_value`, which is never quite reached (official utils.py:187-198). One value per step.
std::vector<double> cosine_schedule(double base, double final_value, int epochs, std::int64_t steps_per_epoch,
                                    int warmup_epochs = 0);

/// Linear from `warmup` to `final_value` over warmup_epochs values, both ends included, then constant. One value per
/// epoch.
std::vector<double> temperature_schedule(double warmup, double final_value, int warmup_epochs, int epochs);

/// What changes during a run.
struct Schedules {
  std::vector<double> lr;            // per step
  std::vector<double> weight_decay;  // per step
  std::vector<double> momentum;      // per step: EMA of the teacher
  std::vector<double> teacher_temp;  // per epoch
};

/// global_batch: images per optimiser step over all ranks and micro-batches; scales the learning rate.
Schedules make_schedules(const TrainConfig& config, std::int64_t steps_per_epoch, std::int64_t global_batch);

}  // namespace dino
