#pragma once

#include "evaluate/features.h"
#include "visualize/object_coverage.h"

#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace dino {

/// One line of the comparison: what k-NN on these features finds, and how well their attention covers the objects.
struct SceneScore {
  std::string name;
  double identity_percent = 0;                  // which of the cut-outs a new scene shows
  double class_percent = 0;                     // which class the cut-out belongs to
  int head = 0;                                 // whose attention covers the objects best on the validation part
  std::optional<ObjectCoverage> coverage = {};  // on the test part; none for pixels
};

struct SceneEvaluationOptions {
  std::filesystem::path data;  // a folder made by make_scenes()
  std::filesystem::path weights;
  std::string split = "test";  // "val" while a recipe is being chosen
  int image_px = 0;            // side at which networks see the scenes; 0: the network's own
  int k = 10;
  double temperature = 0.07;
  double threshold = 0.6;  // mass that a threshold mask keeps, in (0, 1]
  int threads = 0;
};

struct SceneEvaluation {
  int identities = 0, classes = 0;
  std::int64_t train_images = 0, images = 0;
  std::vector<SceneScore> scores;  // raw pixels, untrained network, trained network
};

/// Called now and then with what is being done and how many of its scenes are.
using SceneProgress = std::function<void(const std::string& stage, std::int64_t done, std::int64_t total)>;

/// Compares raw pixels (32×32), the network as it was before training, and the trained one on scenes that none of
/// them has seen.
SceneEvaluation evaluate_scenes(Context& context, const SceneEvaluationOptions& options,
                                const SceneProgress& progress = {});

}  // namespace dino
