#include "cli/run_facts.h"

#include "kernels/common/error.h"

#include <algorithm>
#include <thread>

namespace dino {
namespace {

constexpr std::int64_t kLookedAt = 16;

}  // namespace

RunFacts run_facts(const TrainConfig& config, Device device, DType compute_type, const ImageSource* images,
                   const KnnPictures& pictures) {
  RunFacts facts{.device = device, .compute_type = compute_type};
  facts.loader_threads = config.num_workers > 0 ? static_cast<unsigned>(config.num_workers)
                                                : std::max(1U, std::thread::hardware_concurrency());
  if (images != nullptr && images->size() > 0) {
    double height = 0, width = 0;
    int decoded = 0;
    Image image;
    for (std::int64_t i = 0; i < std::min(kLookedAt, images->size()); ++i) {
      try {
        images->decode(i * images->size() / kLookedAt % images->size(), image);
      } catch (const Error&) {
        continue;  // the loader will report it
      }
      height += image.height;
      width += image.width;
      ++decoded;
    }
    if (decoded > 0) {
      facts.picture_height_px = static_cast<int>(height / decoded + 0.5);
      facts.picture_width_px = static_cast<int>(width / decoded + 0.5);
    }
  }
  const bool has_knn = config.knn_every > 0;
  if (has_knn || config.health_images > 0 || config.report_every > 0) {
    facts.evaluation = [config, pictures, has_knn](Context& context, StudentTeacher& networks) {
      rehearse_features(context, networks, config);
      if (!has_knn) return;
      rehearse_search(context, networks, config, pictures);
      rehearse_pixel_search(context, config, pictures);
    };
  }
  return facts;
}

KnnPictures most_knn_pictures(const TrainConfig& config, std::int64_t images) {
  const std::int64_t most = config.knn_images > 0 ? config.knn_images : std::max<std::int64_t>(images, 1);
  // A data set of its own may be larger than that of the run.
  const auto of = [&](const std::string& path) { return path.empty() && images > 0 ? std::min(most, images) : most; };
  return {of(config.knn_train_path), of(config.knn_test_path)};
}

}  // namespace dino
