#pragma once

#include "data/image_source.h"
#include "evaluate/knn_monitor.h"
#include "train/memory_plan.h"

namespace dino {

/// What the memory of a run depends on besides its configuration. `images` may be null; else some of its pictures are
/// decoded for their size. `pictures` are those of its k-NN.
RunFacts run_facts(const TrainConfig& config, Device device, DType compute_type, const ImageSource* images,
                   const KnnPictures& pictures);

/// The most pictures that the k-NN of a run may look at, without opening its data sets; `images` 0: unknown. With
/// knn_images = 0 a data set of its own counts as one of so many pictures as that of the run.
KnnPictures most_knn_pictures(const TrainConfig& config, std::int64_t images);

}  // namespace dino
