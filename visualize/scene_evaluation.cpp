#include "visualize/scene_evaluation.h"

#include "data/dataset.h"
#include "data/decode.h"
#include "evaluate/knn.h"
#include "models/backbone.h"
#include "visualize/attention.h"

#include <algorithm>
#include <map>

namespace dino {
namespace {

constexpr int kPixelSide = 32;

/// Labels of the coarse classes: what stands before `__` in the names of the folders.
std::vector<std::int32_t> coarse_labels(const Dataset& images, const std::vector<std::int32_t>& identities) {
  std::map<std::string, std::int32_t> numbers;
  std::vector<std::int32_t> class_of;
  for (const std::string& name : images.class_names()) {
    const std::string coarse = name.substr(0, name.find("__"));
    class_of.push_back(numbers.emplace(coarse, static_cast<std::int32_t>(numbers.size())).first->second);
  }
  std::vector<std::int32_t> labels;
  for (const std::int32_t identity : identities) labels.push_back(class_of.at(static_cast<std::size_t>(identity)));
  return labels;
}

struct Scenes {
  std::unique_ptr<Dataset> train, val, test;
};

double knn_percent(Context& context, const FeatureTable& train, const std::vector<std::int32_t>& train_labels,
                   const FeatureTable& test, const std::vector<std::int32_t>& test_labels,
                   const SceneEvaluationOptions& options) {
  const int ks[] = {options.k};
  const KnnResult result = evaluate_knn(context, context.from_host(train.array()), train_labels,
                                        context.from_host(test.array()), test_labels, ks, options.temperature);
  return result.accuracies.front().top1;
}

void score_features(Context& context, const Scenes& scenes, const FeatureTable& train, const FeatureTable& test,
                    const SceneEvaluationOptions& options, SceneScore& score) {
  score.identity_percent = knn_percent(context, train, train.labels, test, test.labels, options);
  score.class_percent = knn_percent(context, train, coarse_labels(*scenes.train, train.labels), test,
                                    coarse_labels(*scenes.test, test.labels), options);
}

/// The mask that belongs to `…/SPLIT/FOLDER/NAME.png`.
std::filesystem::path mask_path(const std::filesystem::path& data, const std::filesystem::path& scene) {
  const std::filesystem::path folder = scene.parent_path();
  return data / "masks" / folder.parent_path().filename() / folder.filename() / scene.filename();
}

ObjectCoverage measure_coverage(Context& context, const Vit& vit, const ParameterStore& store, const Dataset& scenes,
                                const SceneEvaluationOptions& options, int image_px, const FeatureProgress& progress) {
  ObjectCoverageMeter meter(vit.config().heads);
  const int patch_px = vit.config().patch_px;
  Image picture;
  for (std::int64_t i = 0; i < scenes.size(); ++i) {
    scenes.decode(i, picture);
    const Image prepared = prepare_attention_image(picture, image_px, patch_px);
    decode_image_file(mask_path(options.data, scenes.name(i)), {}, picture);
    const Image mask = prepare_attention_image(picture, image_px, patch_px);
    std::vector<std::uint8_t> grey(static_cast<std::size_t>(mask.height) * static_cast<std::size_t>(mask.width));
    for (std::size_t p = 0; p < grey.size(); ++p) grey[p] = mask.rgb[3 * p];

    Tape tape(context, Tape::Mode::inference);
    Weights weights = Weights::student(tape, store);
    const AttentionMaps maps = compute_attention(vit, weights, prepared, {.threshold = options.threshold});
    meter.add(maps.attention, maps.mask, patch_shares(grey, mask.height, mask.width, patch_px));
    progress(i + 1, scenes.size(), 0);
  }
  return meter.result();
}

SceneScore score_network(Context& context, const std::string& name, const Vit& vit, const ParameterStore& store,
                         const Scenes& scenes, const SceneEvaluationOptions& options, const SceneProgress& progress) {
  const auto stage = [&](const char* what) {
    return FeatureProgress([&progress, title = name + ": " + what](std::int64_t done, std::int64_t total, double) {
      if (progress) progress(title, done, total);
    });
  };
  SceneScore score{.name = name};
  const int image_px = options.image_px > 0 ? options.image_px : vit.config().image_px;
  // The objects fill the scenes, so the whole picture is shown.
  const FeatureOptions features{.crop_px = image_px, .short_side_px = image_px, .threads = options.threads};
  const FeatureTable train =
      extract_features(context, vit, store, Network::student, *scenes.train, features, stage("training scenes"));
  const FeatureTable test =
      extract_features(context, vit, store, Network::student, *scenes.test, features, stage("new scenes"));
  score_features(context, scenes, train, test, options, score);

  const ObjectCoverage on_val =
      measure_coverage(context, vit, store, *scenes.val, options, image_px, stage("choice of the head"));
  const auto best = std::max_element(on_val.mass_on_object.begin(), on_val.mass_on_object.end());
  score.head = static_cast<int>(best - on_val.mass_on_object.begin());
  score.coverage = options.split == "val"
                       ? on_val
                       : measure_coverage(context, vit, store, *scenes.test, options, image_px, stage("attention"));
  return score;
}

}  // namespace

SceneEvaluation evaluate_scenes(Context& context, const SceneEvaluationOptions& options,
                                const SceneProgress& progress) {
  require(options.threshold > 0 && options.threshold <= 1, "scenes", "the threshold must lie in (0, 1]; got {}",
          options.threshold);
  const WeightsFile file = read_weights(options.weights);
  const Scenes scenes{open_dataset(options.data, {.split = "train"}), open_dataset(options.data, {.split = "val"}),
                      open_dataset(options.data, {.split = options.split})};
  require(!scenes.train->class_names().empty(), "scenes",
          "{} has no class folders; try `dino_cuda data scenes --out {}`", options.data.string(),
          options.data.string());

  SceneEvaluation result;
  result.identities = static_cast<int>(scenes.train->class_names().size());
  result.train_images = scenes.train->size();
  result.images = scenes.test->size();

  SceneScore pixels{.name = "raw pixels"};
  const auto show_pixels = [&](std::int64_t done, std::int64_t total, double) {
    if (progress) progress(pixels.name, done, total);
  };
  const FeatureTable train_pixels = pixel_features(*scenes.train, kPixelSide, options.threads, show_pixels);
  const FeatureTable test_pixels = pixel_features(*scenes.test, kPixelSide, options.threads);
  score_features(context, scenes, train_pixels, test_pixels, options, pixels);
  const std::vector<std::int32_t> coarse = coarse_labels(*scenes.train, train_pixels.labels);
  result.classes = 1 + *std::max_element(coarse.begin(), coarse.end());
  result.scores.push_back(std::move(pixels));

  {
    ParameterLayout layout;
    const Vit vit(layout, file.config());
    ParameterStore store(context, layout, DType::float32, ParameterStore::Role::inference);
    store.initialize(0);
    result.scores.push_back(score_network(context, "untrained", vit, store, scenes, options, progress));
  }
  const Backbone backbone(context, file, DType::float32);
  result.scores.push_back(score_network(context, "trained", backbone.vit, backbone.store, scenes, options, progress));
  return result;
}

}  // namespace dino
