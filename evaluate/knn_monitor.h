#pragma once

#include "data/image_source.h"
#include "train/trainer.h"

#include <cstdint>
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
/// that mistakes show early. Ranks share the work.
Evaluator make_knn_monitor(Context& context, Communicator& communicator, const TrainConfig& config);

/// How many pictures such an evaluation compares with and classifies.
struct KnnPictures {
  std::int64_t known = 0, asked = 0;
};
/// Opens the data sets to count them, as make_knn_monitor() does. Nothing when knn_every is 0.
KnnPictures count_knn_pictures(const TrainConfig& config);

/// Does with networks that rehearse (engine/rehearsal.h) what an evaluation does for one network: a batch of features,
/// and the search among so many pictures.
void rehearse_features(Context& context, StudentTeacher& networks, const TrainConfig& config);
void rehearse_search(Context& context, const StudentTeacher& networks, const TrainConfig& config,
                     const KnnPictures& pictures);
/// The search among their pixels, which the first evaluation of a start does as well where there are not too many.
void rehearse_pixel_search(Context& context, const TrainConfig& config, const KnnPictures& pictures);
/// Images in a batch of features.
int feature_batch();

}  // namespace dino
