#include "evaluate/knn_monitor.h"

#include "data/dataset.h"
#include "engine/progress.h"
#include "evaluate/feature_spread.h"
#include "evaluate/features.h"
#include "evaluate/held_out.h"
#include "evaluate/knn.h"
#include "train/stop_signal.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <numeric>
#include <optional>

namespace dino {
namespace {

constexpr int kPixelSide = 16;
constexpr std::int64_t kMostPixelPictures = 20'000;

struct Monitor {
  TrainConfig config;
  std::unique_ptr<Dataset> train, test;
  std::unique_ptr<Subset> known, asked;     // pictures to compare with, pictures to classify
  std::string note;                         // what is special about them
  mutable std::optional<KnnResult> pixels;  // once they are measured

  /// Accuracies of the bare pixels, which a network has to beat. They do not change, and are measured once a start; not
  /// for sets so large that it would take long.
  std::optional<KnnResult> evaluate_pixels(Context& context, const Communicator& communicator) const {
    if (pixels || pictures() > kMostPixelPictures) return pixels;
    const auto extract = [&](const ImageSource& images) {
      return pixel_features(images, kPixelSide, config.num_workers, [&](std::int64_t, std::int64_t, double) {
        if (communicator.size() == 1) StopSignal::check();  // ranks have to stop in the same place
      });
    };
    const FeatureTable bank = extract(*known), queries = extract(*asked);
    pixels = evaluate_knn(context, context.from_host(bank.array()), bank.labels, context.from_host(queries.array()),
                          queries.labels, config.knn_k, config.knn_temperature);
    return pixels;
  }

  struct Measured {
    KnnResult knn;
    std::int64_t broken = 0;  // pictures left out
    FeatureSpread spread;     // of the pictures to compare with
  };

  std::int64_t pictures() const { return known->size() + asked->size(); }

  Measured evaluate(Context& context, Communicator& communicator, StudentTeacher& networks, Network network,
                    Progress& bar, std::int64_t done_before) const {
    FeatureOptions options = FeatureOptions::for_image_size(config.global_crops_size);
    options.threads = config.num_workers;
    const auto extract = [&](const ImageSource& images) {
      FeatureTable table = extract_features(context, communicator, networks.vit(), networks.store(), network, images,
                                            options, [&](std::int64_t done, std::int64_t, double) {
                                              StopSignal::check();
                                              bar.update(done_before + done);
                                            });
      done_before += images.size();
      return table;
    };
    const FeatureTable bank = extract(*known);
    const FeatureTable queries = extract(*asked);
    return {evaluate_knn(context, communicator, context.from_host(bank.array()), bank.labels,
                         context.from_host(queries.array()), queries.labels, config.knn_k, config.knn_temperature),
            bank.broken.count + queries.broken.count, feature_spread(bank)};
  }
};

std::vector<std::int64_t> everything(const ImageSource& images) {
  std::vector<std::int64_t> indices(static_cast<std::size_t>(images.size()));
  std::iota(indices.begin(), indices.end(), std::int64_t{0});
  return indices;
}

nlohmann::ordered_json to_json(const KnnResult& result) {
  nlohmann::ordered_json rows = nlohmann::ordered_json::array();
  for (const KnnAccuracy& a : result.accuracies) rows.push_back({{"k", a.k}, {"top1", a.top1}, {"top5", a.top5}});
  return rows;
}

const KnnAccuracy& best_of(const KnnResult& result) {
  return *std::max_element(result.accuracies.begin(), result.accuracies.end(),
                           [](const KnnAccuracy& a, const KnnAccuracy& b) { return a.top1 < b.top1; });
}

}  // namespace

std::unique_ptr<Dataset> open_labelled(const std::filesystem::path& path, const std::string& split) {
  const auto has = [&](const char* name) { return std::filesystem::is_directory(path / name); };
  const bool plain = std::filesystem::is_directory(path) && !has("train") && !has("val") && !has("test");
  std::unique_ptr<Dataset> dataset;
  if (!plain || split == "train") {
    dataset = open_dataset(path, {.split = split});
  } else {
    // Pictures in class folders without splits count as train; binary formats know their splits by other means.
    try {
      dataset = open_dataset(path, {.split = split});
    } catch (const Error&) {
      dataset = open_dataset(path, {.split = "train"});
    }
  }
  require(!dataset->class_names().empty(), "knn", "{} has no classes; expected pictures in class folders",
          path.string());
  return dataset;
}

namespace {

std::shared_ptr<Monitor> open_monitor(const TrainConfig& config) {
  auto monitor = std::make_shared<Monitor>();
  monitor->config = config;
  monitor->train = open_labelled(config.knn_train_path.empty() ? config.data_path : config.knn_train_path, "train");
  monitor->test = open_labelled(config.knn_test_path.empty() ? config.data_path : config.knn_test_path, "val");
  require(monitor->train->class_names().size() > 1, "knn",
          "{} has one class, so every answer is right; expected two or more; try --knn_every 0",
          (config.knn_train_path.empty() ? config.data_path : config.knn_train_path));
  const bool held_out = same_pictures(*monitor->train, *monitor->test);
  const HeldOut all =
      held_out ? hold_out_tenth(*monitor->train) : HeldOut{everything(*monitor->train), everything(*monitor->test)};
  const Dataset& asked_from = held_out ? *monitor->train : *monitor->test;
  monitor->known = std::make_unique<Subset>(*monitor->train, evenly_chosen(all.known, config.knn_images));
  monitor->asked = std::make_unique<Subset>(asked_from, evenly_chosen(all.asked, config.knn_images));
  const bool thinned = monitor->known->size() < static_cast<std::int64_t>(all.known.size()) ||
                       monitor->asked->size() < static_cast<std::int64_t>(all.asked.size());
  monitor->note = held_out ? ", a tenth of the training images against the rest" : "";
  if (thinned) monitor->note += fmt::format(", {} images against {}", monitor->asked->size(), monitor->known->size());
  return monitor;
}

}  // namespace

Evaluator make_knn_monitor(Context& context, Communicator& communicator, const TrainConfig& config) {
  if (config.knn_every == 0) return {};
  const std::shared_ptr<Monitor> monitor = open_monitor(config);
  return [monitor, &context, &communicator](StudentTeacher& networks) {
    Progress bar("k-NN", 2 * monitor->pictures(), 0, communicator.rank() == 0 ? stderr : nullptr);
    const Monitor::Measured of_student = monitor->evaluate(context, communicator, networks, Network::student, bar, 0);
    const Monitor::Measured of_teacher =
        monitor->evaluate(context, communicator, networks, Network::teacher, bar, monitor->pictures());
    const KnnResult &student = of_student.knn, &teacher = of_teacher.knn;
    Evaluation evaluation;
    evaluation.score = best_of(teacher).top1;
    evaluation.summary =
        fmt::format("k-NN top-1: teacher {:.2f}% (k = {}), student {:.2f}% (k = {})", best_of(teacher).top1,
                    best_of(teacher).k, best_of(student).top1, best_of(student).k);
    evaluation.summary += monitor->note;
    if (of_teacher.broken > 0) evaluation.summary += fmt::format(", {} broken pictures left out", of_teacher.broken);
    evaluation.summary += ", " + describe(of_teacher.spread);
    evaluation.features = of_teacher.spread;
    evaluation.numbers = std::make_shared<nlohmann::ordered_json>(
        nlohmann::ordered_json{{"teacher", to_json(teacher)},
                               {"student", to_json(student)},
                               {"features", to_json(of_teacher.spread, of_student.spread)}});
    (*evaluation.numbers)["pictures"] = monitor->asked->size();
    if (const auto pixels = monitor->evaluate_pixels(context, communicator))
      (*evaluation.numbers)["pixels"] = to_json(*pixels);
    return evaluation;
  };
}

KnnPictures count_knn_pictures(const TrainConfig& config) {
  if (config.knn_every == 0) return {};
  const std::shared_ptr<Monitor> monitor = open_monitor(config);
  return {monitor->known->size(), monitor->asked->size()};
}

int feature_batch() { return FeatureOptions().batch; }

void rehearse_features(Context& context, StudentTeacher& networks, const TrainConfig& config) {
  const FeatureOptions options = FeatureOptions::for_image_size(config.global_crops_size);
  const Shape shape{options.batch, options.crop_px, options.crop_px, 3};
  const std::vector<std::uint8_t> pixels(static_cast<std::size_t>(shape.size()));
  std::vector<float> rows;
  compute_features(context, networks.vit(), networks.store(), Network::teacher, ConstArray(pixels.data(), shape),
                   options.kind, rows);
}

namespace {

void rehearse_search_of(Context& context, std::int64_t width, const TrainConfig& config, const KnnPictures& pictures) {
  const Tensor bank = context.empty({pictures.known, width}, DType::float32);
  const Tensor queries = context.empty({pictures.asked, width}, DType::float32);
  const std::vector<std::int32_t> known(static_cast<std::size_t>(pictures.known), 0);
  const std::vector<std::int32_t> asked(static_cast<std::size_t>(pictures.asked), 0);
  evaluate_knn(context, bank, known, queries, asked, config.knn_k, config.knn_temperature);
}

}  // namespace

void rehearse_search(Context& context, const StudentTeacher& networks, const TrainConfig& config,
                     const KnnPictures& pictures) {
  rehearse_search_of(context, networks.vit().config().embed_dim, config, pictures);
}

void rehearse_pixel_search(Context& context, const TrainConfig& config, const KnnPictures& pictures) {
  if (pictures.known + pictures.asked > kMostPixelPictures) return;
  rehearse_search_of(context, std::int64_t{3} * kPixelSide * kPixelSide, config, pictures);
}

}  // namespace dino
