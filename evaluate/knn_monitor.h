#pragma once

#include "data/image_source.h"
#include "train/trainer.h"

#include <filesystem>
#include <memory>
#include <string>

namespace dino {

class Dataset;

/// Opens `path` for its labelled pictures of one split; a folder without splits is taken whole. Throws Error where the
/// pictures have no classes.
std::unique_ptr<Dataset> open_labelled(const std::filesystem::path& path, const std::string& split);

/// Evaluates student and teacher by k-NN between epochs, as the configuration's knn_ keys say. The score is the
/// teacher's best top-1. Where the images to classify are those to compare with, a tenth of them is held out; of many,
/// knn_images are taken. Broken pictures are left out. Empty when knn_every is 0. The data sets are opened at once, so
/// that mistakes show early.
Evaluator make_knn_monitor(Context& context, const TrainConfig& config);

}  // namespace dino
