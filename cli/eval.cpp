#include "cli/eval_commands.h"
#include "cli/output.h"
#include "engine/progress.h"
#include "models/json.h"
#include "visualize/scene_evaluation.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <cstdio>
#include <memory>

namespace dino {
namespace {

struct SceneCommand {
  SceneEvaluationOptions evaluation;
  bool json = false;
};

nlohmann::ordered_json to_json(const SceneEvaluation& result) {
  nlohmann::ordered_json json = {{"identities", result.identities},
                                 {"classes", result.classes},
                                 {"train_images", result.train_images},
                                 {"images", result.images},
                                 {"scores", nlohmann::ordered_json::array()}};
  for (const SceneScore& score : result.scores) {
    nlohmann::ordered_json row = {
        {"name", score.name}, {"identity_percent", score.identity_percent}, {"class_percent", score.class_percent}};
    if (score.coverage) {
      row["head"] = score.head;
      row["object_share"] = score.coverage->object_share;
      row["mass_on_object"] = score.coverage->mass_on_object;
      row["mask_iou"] = score.coverage->mask_iou;
    }
    json["scores"].push_back(std::move(row));
  }
  return json;
}

int eval_scenes(const SceneCommand& options) {
  const auto context = make_cpu_context();
  std::unique_ptr<Progress> bar;
  std::string shown;
  const auto show = [&](const std::string& stage, std::int64_t done, std::int64_t total) {
    if (stage != shown) bar = std::make_unique<Progress>(stage, total);
    shown = stage;
    bar->update(done);
  };
  const SceneEvaluation result = evaluate_scenes(*context, options.evaluation, show);
  bar.reset();
  if (options.json) {
    print_json(to_json(result));
    return 0;
  }
  fmt::print("{} scenes that were not trained on; k-NN (k = {}) among {} scenes\n\n", result.images,
             options.evaluation.k, result.train_images);
  fmt::print("{:<12} {:>16} {:>13} {:>15} {:>10} {:>9}\n", "", fmt::format("identity ({})", result.identities),
             fmt::format("class ({})", result.classes), "mass on object", "x share", "mask IoU");
  for (const SceneScore& score : result.scores) {
    fmt::print("{:<12} {:>14.1f} % {:>11.1f} %", score.name, score.identity_percent, score.class_percent);
    if (score.coverage) {
      const auto head = static_cast<std::size_t>(score.head);
      const double mass = score.coverage->mass_on_object[head];
      fmt::print(" {:>15.3f} {:>10.2f} {:>9.3f}", mass, mass / score.coverage->object_share,
                 score.coverage->mask_iou[head]);
    }
    fmt::print("\n");
  }
  fmt::print(
      "\nThe objects fill {:.3f} of the scenes. Attention: share of the best head's mass that lies on the object, that "
      "share over the\n"
      "object's, and how well the mask of its strongest {:.0f} % fits the object. The head was chosen on the "
      "validation scenes.\n",
      result.scores.back().coverage->object_share, 100 * options.evaluation.threshold);
  return 0;
}

void add_scenes(Command eval, Run& run) {
  const Command command =
      eval.add_subcommand("scenes",
                          "Compare raw pixels, the untrained and the trained network on drawn scenes: k-NN by object "
                          "and by class, and how\n"
                          "well the attention covers the objects, whose masks are known.\n\n"
                          "  dino_cuda data scenes --out data_sets/scenes\n"
                          "  dino_cuda eval scenes --weights runs/scenes/last.safetensors --data data_sets/scenes\n");
  auto options = std::make_shared<SceneCommand>();
  SceneEvaluationOptions& e = options->evaluation;
  command.add_option("--weights", e.weights, "checkpoint or weights: .safetensors or .pth")
      .required()
      .type_name("FILE");
  command.add_option("--data", e.data, "folder made by `dino_cuda data scenes`").required().type_name("DIR");
  command.add_option("--split", e.split, "test, or val while a recipe is being chosen")
      .one_of({"test", "val"})
      .capture_default_str();
  command.add_option("--image-size", e.image_px, "side at which networks see the scenes (default: the network's)")
      .positive();
  command.add_option("--k", e.k, "number of neighbours").positive().capture_default_str();
  command.add_option("--temperature", e.temperature, "votes weigh exp(similarity / temperature)")
      .positive()
      .capture_default_str();
  command.add_option("--threshold", e.threshold, "mass that a mask keeps").in_range(0.0, 1.0).capture_default_str();
  command.add_option("--threads", e.threads, "threads that decode (default: one per processor)").positive();
  add_json_option(command, options->json);
  command.callback([options, &run] { run = [options] { return eval_scenes(*options); }; });
}

}  // namespace

void add_eval_command(Command app, Run& run) {
  const Command command = app.add_subcommand(
      "eval",
      "Measure what a network has learned.\n\n"
      "  dino_cuda eval knn --weights runs/mine/last.safetensors --train my/train --test my/test\n"
      "  dino_cuda eval linear --weights runs/mine/last.safetensors --train my/train --test my/test\n");
  command.require_subcommand(1, 1);
  add_eval_knn(command, run);
  add_eval_linear(command, run);
  add_scenes(command, run);
}

}  // namespace dino
