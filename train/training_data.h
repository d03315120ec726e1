#pragma once

#include "data/loader.h"
#include "engine/context.h"
#include "train/config.h"
#include "train/student_teacher.h"

namespace dino {

/// The crops that a configuration asks for, of each picture.
ViewSet training_views(const TrainConfig& config);

/// Where they are made on this device.
AugmentOn augment_on(const TrainConfig& config, Device device);

/// Puts a batch of the loader on the device.
TrainingCrops upload_training_crops(Context& context, const Batch& batch);

}  // namespace dino
