#include "cli/eval_commands.h"
#include "cli/network_options.h"
#include "cli/output.h"
#include "cli/stage_bars.h"
#include "data/dataset.h"
#include "evaluate/held_out.h"
#include "evaluate/knn_monitor.h"
#include "evaluate/linear_evaluation.h"
#include "kernels/common/error.h"
#include "models/json.h"
#include "train/ranks.h"
#include "train/stop_signal.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <cmath>
#include <cstdio>
#include <memory>

namespace dino {
namespace {

struct LinearCommand {
  NetworkOptions network;
  std::string train, test, state;
  std::string choose = "test";
  LinearEvaluationOptions evaluation;
  int blocks = 0;  // 0: as the official script for this network
  bool average_patches = false;
  int image_px = 0;
  int short_side_px = 0;
  bool json = false;
};

const char* how_chosen(ChosenOn chosen_on) {
  return chosen_on == ChosenOn::test ? "on the test images, as the official script does"
                                     : "on a held-out tenth of the training images";
}

nlohmann::ordered_json to_json(const LinearEvaluation& result, const LinearCommand& options, int ranks) {
  const LinearEvaluationOptions& e = options.evaluation;
  const std::size_t last = result.epochs.size() - 1;
  nlohmann::ordered_json json = {{"weights", options.network.weights},
                                 {"network", options.network.network},
                                 {"train_images", result.train_images},
                                 {"held_out_images", result.held_out_images},
                                 {"test_images", result.test_images},
                                 {"broken_images", result.broken_images},
                                 {"classes", result.classes},
                                 {"width", result.width},
                                 {"blocks", e.features.kind.blocks},
                                 {"average_patches", e.features.kind.average_patches},
                                 {"cached", e.cached},
                                 {"batch", std::int64_t{e.probe.batch} * ranks},
                                 {"epochs", result.epochs.size()},
                                 {"epochs_wanted", e.probe.epochs},
                                 {"chosen_on", e.chosen_on == ChosenOn::test ? "test" : "held_out"},
                                 {"best",
                                  {{"lr", e.probe.learning_rates[result.best_rate]},
                                   {"epoch", result.best_epoch + 1},
                                   {"top1", result.best().top1},
                                   {"top5", result.best().top5}}},
                                 {"classifiers", nlohmann::ordered_json::array()}};
  for (std::size_t l = 0; l < e.probe.learning_rates.size(); ++l) {
    const LinearEpoch& epoch = result.epochs[last];
    nlohmann::ordered_json row = {{"lr", e.probe.learning_rates[l]},
                                  {"loss", epoch.loss[l]},
                                  {"top1", epoch.test[l].top1},
                                  {"top5", epoch.test[l].top5}};
    if (!epoch.held_out.empty()) row["held_out_top1"] = epoch.held_out[l].top1;
    json["classifiers"].push_back(std::move(row));
  }
  return json;
}

void print_table(const LinearEvaluation& result, const LinearCommand& options) {
  const LinearEvaluationOptions& e = options.evaluation;
  fmt::print("{} training", result.train_images);
  if (result.held_out_images > 0) fmt::print(", {} held-out", result.held_out_images);
  fmt::print(" and {} test images, {} classes; {} features: CLS of the last {} block{}{}\n", result.test_images,
             result.classes, result.width, e.features.kind.blocks, e.features.kind.blocks == 1 ? "" : "s",
             e.features.kind.average_patches ? " and the mean of the patches" : "");
  if (e.cached) fmt::print("features computed once, from centre crops (--cached): no random crops, no flips\n");
  const bool held_out = result.held_out_images > 0;
  fmt::print("after epoch {} of {}:\n", result.epochs.size(), e.probe.epochs);
  fmt::print("{:>10}  {:>8}  {:>8}  {:>8}{}\n", "lr", "loss", "top-1 %", "top-5 %", held_out ? "  held-out %" : "");
  const LinearEpoch& last = result.epochs.back();
  for (std::size_t l = 0; l < last.test.size(); ++l) {
    const std::string loss = std::isfinite(last.loss[l]) ? fmt::format("{:.4f}", last.loss[l]) : "diverged";
    fmt::print("{:>10}  {:>8}  {:>8.2f}  {:>8.2f}", e.probe.learning_rates[l], loss, last.test[l].top1,
               last.test[l].top5);
    if (held_out) fmt::print("  {:>10.2f}", last.held_out[l].top1);
    fmt::print("\n");
  }
  fmt::print("best: top-1 {:.2f} %, top-5 {:.2f} % with lr {} after epoch {}, chosen {}\n", result.best().top1,
             result.best().top5, e.probe.learning_rates[result.best_rate], result.best_epoch + 1,
             how_chosen(e.chosen_on));
}

int eval_linear(LinearCommand options, OpenNetwork& open) {
  Communicator& communicator = *open.machine.communicator;
  const VitConfig& config = open.backbone.vit.config();
  const auto train = open_labelled(options.train, "train");
  const auto test = open_labelled(options.test, "val");
  require(train->class_names() == test->class_names(), "eval linear",
          "{} and {} have different classes ({} and {}); try folders with the same sub-folders", options.train,
          options.test, train->class_names().size(), test->class_names().size());
  require(!same_pictures(*train, *test), "eval linear",
          "the training and the test images are the same, so the accuracy would say nothing about new images; got {}, "
          "expected two sets; try --test with another folder",
          options.test);

  LinearEvaluationOptions& e = options.evaluation;
  const FeatureKind official = FeatureKind::linear_probe(config);
  e.features = FeatureOptions::for_image_size(options.image_px > 0 ? options.image_px : config.image_px);
  if (options.short_side_px > 0) e.features.short_side_px = options.short_side_px;
  e.features.threads = options.network.threads;
  e.features.kind = official;
  if (options.blocks > 0 || options.average_patches)
    e.features.kind = {.blocks = std::max(1, options.blocks), .average_patches = options.average_patches};
  e.chosen_on = options.choose == "test" ? ChosenOn::test : ChosenOn::held_out;
  e.state = options.state;

  StageBars bars(open.first());
  const StopSignal stop;
  LinearEvaluation result;
  // A signal may have reached only one of the ranks.
  const auto signal = [&] { return largest_of_ranks(communicator, StopSignal::received(), "signals"); };
  try {
    result = evaluate_linear(*open.context, communicator, open.backbone.vit, open.backbone.store, Network::student,
                             *train, *test, e,
                             [&](const std::string& stage, std::int64_t done, std::int64_t total,
                                 const std::string& details) { bars.update(stage, done, total, details); });
  } catch (const Interrupted&) {
    bars.end();
    if (open.first()) say("dino_cuda: stopped before the end of the first epoch; there is nothing to report");
    return 128 + signal();
  }
  bars.end();
  const bool complete = static_cast<int>(result.epochs.size()) == e.probe.epochs;
  const int status = complete ? 0 : options.state.empty() ? 128 + signal() : StopSignal::exit_status(signal());
  communicator.barrier("the end");
  if (!open.first()) return status;
  if (result.broken_images > 0) say("dino_cuda: {} images could not be read and were left out", result.broken_images);
  if (options.json) {
    print_json(to_json(result, options, communicator.size()));
  } else {
    print_table(result, options);
  }
  if (complete) return 0;
  say("dino_cuda: stopped after {} of {} epochs; {}", result.epochs.size(), e.probe.epochs,
      options.state.empty() ? "nothing was kept but the numbers above; try --state FILE to be able to go on"
                            : "the same command with --resume goes on");
  return status;
}

int eval_linear(const LinearCommand& options) {
  if (const auto status = launch_ranks(options.network.launch)) return *status;
  OpenNetwork open(options.network);
  return telling_ranks(*open.machine.communicator, [&] { return eval_linear(options, open); });
}

}  // namespace

void add_eval_linear(Command eval, Run& run) {
  const Command command = eval.add_subcommand(
      "linear",
      "Train linear classifiers on frozen features, as DINO's linear evaluation does: CLS tokens of the last 4 blocks "
      "(ViT-B: of the last\n"
      "one, with the mean of the patch tokens), random crops and flips, SGD for 100 epochs. Every learning rate trains "
      "a classifier of\n"
      "its own on the same features.\n\n"
      "  dino_cuda eval linear --weights runs/mine/last.safetensors --train my/train --test my/test\n"
      "  dino_cuda eval linear … --cached                  features only once, for machines without a GPU\n"
      "  dino_cuda eval linear … --choose held-out         the choice of learning rate and epoch does not see the "
      "test\n"
      "  dino_cuda eval linear … --state probe.safetensors --resume\n"
      "  dino_cuda eval linear … --gpus all                the images of a step are shared out, --batch to each\n");
  auto options = std::make_shared<LinearCommand>();
  LinearEvaluationOptions& e = options->evaluation;
  add_network_options(command, options->network, true);
  add_shared_network_options(command, options->network);
  command.add_option("--train", options->train, "labelled images to train on").required().type_name("DIR");
  command.add_option("--test", options->test, "labelled images to classify").required().type_name("DIR");
  command.add_flag("--cached", e.cached,
                   "compute the features of the training images once, from centre crops, instead of in every epoch "
                   "from random crops");
  command
      .add_option("--lr", e.probe.learning_rates,
                  "learning rates for batches of 256; the rate is multiplied by batch / 256 (official: 0.001)")
      .delimiter(',')
      .positive()
      .capture_default_str();
  command
      .add_option("--choose", options->choose,
                  "images that decide on learning rate and epoch: test, as the official script; or held-out, a tenth "
                  "of the training images")
      .one_of({"test", "held-out"})
      .capture_default_str();
  command.add_option("--epochs", e.probe.epochs, "passes over the training images").positive().capture_default_str();
  command.add_option("--batch", e.probe.batch, "images a step, of one rank").positive().capture_default_str();
  command.add_option("--blocks", options->blocks, "CLS tokens of the last so many blocks (default: 4; ViT-B: 1)")
      .positive();
  command.add_flag("--average-patches", options->average_patches,
                   "with --blocks 1: also the mean of the patch tokens (default for ViT-B)");
  command.add_option("--image-size", options->image_px, "side of the crops in pixels (default: the network's)")
      .positive();
  command.add_option("--resize", options->short_side_px, "short side before the centre crop (default: 256/224 of it)")
      .positive();
  command.add_option("--state", options->state, "keep classifiers and scores here after each epoch (.safetensors)")
      .type_name("FILE");
  command.add_flag("--resume", e.resume, "go on from --state");
  command.add_option("--seed", e.probe.seed, "of weights, order and crops").capture_default_str();
  add_json_option(command, options->json);
  command.callback([options, &run] { run = [options] { return eval_linear(*options); }; });
}

}  // namespace dino
