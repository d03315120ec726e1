#include "evaluate/feature_monitor.h"

#include "evaluate/feature_spread.h"
#include "evaluate/held_out.h"
#include "evaluate/knn_monitor.h"

#include <nlohmann/json.hpp>

#include <memory>
#include <numeric>

namespace dino {

Evaluator make_feature_monitor(Context& context, Communicator& communicator, const TrainConfig& config,
                               const ImageSource& images) {
  if (config.health_images == 0) return {};
  std::vector<std::int64_t> all(static_cast<std::size_t>(images.size()));
  std::iota(all.begin(), all.end(), std::int64_t{0});
  const auto chosen = std::make_shared<Subset>(images, evenly_chosen(all, config.health_images));
  FeatureOptions options = FeatureOptions::for_image_size(config.global_crops_size);
  options.threads = config.num_workers;
  return [chosen, options, &context, &communicator](StudentTeacher& networks) {
    const auto spread_of = [&](Network network) {
      // Few pictures: a signal waits until it is done.
      return feature_spread(
          extract_features(context, communicator, networks.vit(), networks.store(), network, *chosen, options));
    };
    const FeatureSpread student = spread_of(Network::student), teacher = spread_of(Network::teacher);
    Evaluation evaluation;
    evaluation.score = -1;
    evaluation.summary = describe(teacher);
    evaluation.features = teacher;
    evaluation.numbers =
        std::make_shared<nlohmann::ordered_json>(nlohmann::ordered_json{{"features", to_json(teacher, student)}});
    return evaluation;
  };
}

Evaluator make_monitor(Context& context, Communicator& communicator, const TrainConfig& config,
                       const ImageSource& images) {
  return config.knn_every > 0 ? make_knn_monitor(context, communicator, config)
                              : make_feature_monitor(context, communicator, config, images);
}

}  // namespace dino
