#pragma once

#include "data/image_source.h"
#include "train/trainer.h"

namespace dino {

/// Looks between epochs at how the features of config.health_images training pictures lie, evenly chosen, of student
/// and teacher: for runs without k-NN. It has no score. Empty when health_images is 0. `context` and `images` must
/// outlive it.
Evaluator make_feature_monitor(Context& context, Communicator& communicator, const TrainConfig& config,
                               const ImageSource& images);

/// What a run is measured by between epochs: k-NN where the configuration asks for it, else features alone.
Evaluator make_monitor(Context& context, Communicator& communicator, const TrainConfig& config,
                       const ImageSource& images);

}  // namespace dino
