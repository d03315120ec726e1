#include "cli/eval_commands.h"
#include "cli/network_options.h"
#include "cli/output.h"
#include "data/dataset.h"
#include "engine/progress.h"
#include "evaluate/features.h"
#include "evaluate/few_shot.h"
#include "evaluate/held_out.h"
#include "evaluate/knn.h"
#include "evaluate/knn_monitor.h"
#include "kernels/common/error.h"
#include "models/json.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <cstdio>
#include <memory>

namespace dino {
namespace {

struct KnnCommand {
  NetworkOptions network;
  std::string train, test;
  std::vector<int> k{10, 20, 100, 200};
  std::vector<int> shots;
  int seeds = 5;
  double temperature = 0.07;
  int image_px = 0;
  int short_side_px = 0;
  bool json = false;
};

/// Accuracies with so many labelled images of each class, over several draws of them.
struct FewShotRow {
  int shots = 0;
  int k = 0;
  int used = 0;  // neighbours that voted
  MeanDeviation top1, top5;
};

/// Where there are fewer images than k, all vote: `all 50`.
std::string neighbours_of(int k, int used) { return used < k ? fmt::format("all {}", used) : fmt::format("{}", k); }

/// The rows of a table that a draw has chosen.
FeatureTable take_rows(const FeatureTable& table, const std::vector<std::int64_t>& rows) {
  FeatureTable chosen;
  chosen.width = table.width;
  for (const std::int64_t row : rows) {
    const auto first = table.values.begin() + row * table.width;
    chosen.values.insert(chosen.values.end(), first, first + table.width);
    chosen.labels.push_back(table.labels[static_cast<std::size_t>(row)]);
  }
  return chosen;
}

std::vector<FewShotRow> evaluate_few_shot(Context& context, const FeatureTable& train, const FeatureTable& test,
                                          const KnnCommand& options) {
  const Tensor queries = context.from_host(test.array());
  std::vector<FewShotRow> rows;
  Progress bar("few shots", static_cast<std::int64_t>(options.shots.size()) * options.seeds);
  std::int64_t done = 0;
  for (const int shots : options.shots) {
    std::vector<std::vector<double>> top1(options.k.size()), top5(options.k.size());
    std::vector<int> used(options.k.size());
    int short_classes = 0;
    for (int seed = 0; seed < options.seeds; ++seed) {
      const FewShot drawn = draw_few_shot(train.labels, shots, static_cast<std::uint64_t>(seed));
      short_classes = drawn.short_classes;
      const FeatureTable chosen = take_rows(train, drawn.rows);
      const KnnResult result = evaluate_knn(context, context.from_host(chosen.array()), chosen.labels, queries,
                                            test.labels, options.k, options.temperature);
      for (std::size_t i = 0; i < options.k.size(); ++i) {
        top1[i].push_back(result.accuracies[i].top1);
        top5[i].push_back(result.accuracies[i].top5);
        used[i] = result.accuracies[i].used;
      }
      bar.update(++done);
    }
    if (short_classes > 0)
      bar.message(fmt::format("dino_cuda: {} classes have fewer than {} images; all of theirs were taken",
                              short_classes, shots));
    for (std::size_t i = 0; i < options.k.size(); ++i)
      rows.push_back({shots, options.k[i], used[i], mean_deviation(top1[i]), mean_deviation(top5[i])});
  }
  return rows;
}

int eval_knn(const KnnCommand& options, OpenNetwork& open) {
  Context& context = *open.context;
  Communicator& communicator = *open.machine.communicator;
  const auto train = open_labelled(options.train, "train");
  const auto test = open_labelled(options.test, "val");
  require(train->class_names() == test->class_names(), "eval knn",
          "{} and {} have different classes ({} and {}); try folders with the same sub-folders", options.train,
          options.test, train->class_names().size(), test->class_names().size());
  if (open.first() && same_pictures(*train, *test)) {
    say("dino_cuda: the training and the test images are the same, so each finds itself; the accuracy says nothing "
        "about new images");
  }

  FeatureOptions features =
      FeatureOptions::for_image_size(options.image_px > 0 ? options.image_px : open.backbone.vit.config().image_px);
  if (options.short_side_px > 0) features.short_side_px = options.short_side_px;
  features.threads = options.network.threads;
  const auto extract = [&](const Dataset& images, const std::string& what) {
    Progress bar(what, images.size(), 0, open.first() ? stderr : nullptr);
    bar.update(0);
    FeatureTable table =
        extract_features(context, communicator, open.backbone.vit, open.backbone.store, Network::student, images,
                         features, [&](std::int64_t done, std::int64_t, double wait_s) {
                           bar.update(done, fmt::format("| waited {:.1f} s for data", wait_s));
                         });
    if (table.broken.count > 0) bar.message("dino_cuda: " + describe_broken(table));
    return table;
  };
  const FeatureTable train_features = extract(*train, "training images");
  const FeatureTable test_features = extract(*test, "test images");
  const KnnResult result =
      evaluate_knn(context, communicator, context.from_host(train_features.array()), train_features.labels,
                   context.from_host(test_features.array()), test_features.labels, options.k, options.temperature);
  communicator.barrier("the end");
  if (!open.first()) return 0;
  const std::vector<FewShotRow> few = options.shots.empty()
                                          ? std::vector<FewShotRow>{}
                                          : evaluate_few_shot(context, train_features, test_features, options);

  if (options.json) {
    nlohmann::ordered_json json = {{"weights", options.network.weights},
                                   {"network", options.network.network},
                                   {"train_images", train_features.rows()},
                                   {"test_images", test_features.rows()},
                                   {"broken_images", train_features.broken.count + test_features.broken.count},
                                   {"classes", result.classes},
                                   {"temperature", options.temperature},
                                   {"knn", nlohmann::ordered_json::array()}};
    for (const KnnAccuracy& a : result.accuracies)
      json["knn"].push_back({{"k", a.k}, {"top1", a.top1}, {"top5", a.top5}});
    if (!few.empty()) json["few_shot"] = {{"seeds", options.seeds}, {"knn", nlohmann::ordered_json::array()}};
    for (const FewShotRow& row : few) {
      json["few_shot"]["knn"].push_back({{"shots", row.shots},
                                         {"k", row.k},
                                         {"top1", row.top1.mean},
                                         {"top1_deviation", row.top1.deviation},
                                         {"top5", row.top5.mean},
                                         {"top5_deviation", row.top5.deviation}});
    }
    print_json(json);
    return 0;
  }
  fmt::print("{} training and {} test images, {} classes\n", train_features.rows(), test_features.rows(),
             result.classes);
  fmt::print("{:>6}  {:>8}  {:>8}\n", "k", "top-1 %", "top-5 %");
  for (const KnnAccuracy& a : result.accuracies)
    fmt::print("{:>6}  {:>8.2f}  {:>8.2f}\n", neighbours_of(a.k, a.used), a.top1, a.top5);
  if (few.empty()) return 0;
  fmt::print("\nwith a few labelled images of each class, mean ± standard deviation of {} draws\n", options.seeds);
  fmt::print("{:>6}  {:>6}  {:>15}  {:>15}\n", "shots", "k", "top-1 %", "top-5 %");
  for (const FewShotRow& row : few) {
    fmt::print("{:>6}  {:>6}  {:>8.2f} ± {:>4.2f}  {:>8.2f} ± {:>4.2f}\n", row.shots, neighbours_of(row.k, row.used),
               row.top1.mean, row.top1.deviation, row.top5.mean, row.top5.deviation);
  }
  return 0;
}

int eval_knn(const KnnCommand& options) {
  if (const auto status = launch_ranks(options.network.launch)) return *status;
  OpenNetwork open(options.network);
  return telling_ranks(*open.machine.communicator, [&] { return eval_knn(options, open); });
}

}  // namespace

void add_eval_knn(Command eval, Run& run) {
  const Command command = eval.add_subcommand(
      "knn",
      "Classify images by their nearest neighbours among labelled ones, on frozen features.\n\n"
      "  dino_cuda eval knn --weights runs/mine/last.safetensors --train my/train --test my/test\n"
      "  dino_cuda eval knn --weights dino_deitsmall16_pretrain.pth --train imagenet/train --test imagenet/val --json\n"
      "  dino_cuda eval knn … --shots 1,5,10 --k 1,5      how far a few labelled images of each class lead\n");
  auto options = std::make_shared<KnnCommand>();
  add_network_options(command, options->network, true);
  add_shared_network_options(command, options->network);
  command.add_option("--train", options->train, "labelled images that vote").required().type_name("DIR");
  command.add_option("--test", options->test, "labelled images to classify").required().type_name("DIR");
  command.add_option("--k", options->k, "numbers of neighbours").delimiter(',').positive().capture_default_str();
  command.add_option("--shots", options->shots, "also with only so many labelled images of each class, drawn at random")
      .delimiter(',')
      .positive();
  command.add_option("--seeds", options->seeds, "number of draws for --shots").positive().capture_default_str();
  command.add_option("--temperature", options->temperature, "votes weigh exp(similarity / temperature)")
      .positive()
      .capture_default_str();
  command.add_option("--image-size", options->image_px, "side of the centre crop in pixels (default: the network's)")
      .positive();
  command.add_option("--resize", options->short_side_px, "short side before the crop (default: 256/224 of the crop)")
      .positive();
  add_json_option(command, options->json);
  command.callback([options, &run] { run = [options] { return eval_knn(*options); }; });
}

}  // namespace dino
