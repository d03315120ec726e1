#include "cli/commands.h"
#include "data/scenes.h"
#include "engine/progress.h"

#include <fmt/format.h>

#include <cstdio>
#include <memory>
#include <optional>

namespace dino {
namespace {

int draw_scenes(const SceneOptions& options) {
  std::optional<Progress> bar;
  const SceneSummary summary = make_scenes(options, [&](std::int64_t done, std::int64_t total) {
    if (!bar) bar.emplace("drawing scenes", total);
    bar->update(done, "");
  });
  bar.reset();
  fmt::print("{}: {} scenes of {} objects in {} classes, on {} photographs\n", options.out.string(), summary.scenes,
             summary.stamps, summary.classes, summary.photographs);
  if (summary.missing_stamps > 0) {
    fmt::print(stderr, "dino_cuda: {} of the objects are not on this machine and were left out\n",
               summary.missing_stamps);
  }
  return 0;
}

void add_scenes(CLI::App& data, Run& run) {
  CLI::App* command = data.add_subcommand("scenes",
                                          "Draw labelled scenes whose object masks are known: cut-out photographs on "
                                          "blurred photographs, from the packages\n"
                                          "tuxpaint-stamps-default and mate-backgrounds.\n\n"
                                          "  dino_cuda data scenes --out data_sets/scenes\n");
  auto options = std::make_shared<SceneOptions>();
  SceneStyle& style = options->style;
  command->add_option("--out", options->out, "folder to make; it must not exist")->required()->type_name("DIR");
  command->add_option("--stamps", options->stamps, "folder of the cut-outs")->capture_default_str();
  command->add_option("--backgrounds", options->backgrounds, "folder of photographs (JPEG)")->capture_default_str();
  command->add_option("--table", options->table,
                      "which cut-outs, and their classes: path<tab>class (default: built in)");
  command->add_option("--size", style.size_px, "side of a scene in pixels")->capture_default_str();
  command->add_option("--fill-min", style.fill_min, "least share of the frame that a cut-out fills")
      ->capture_default_str();
  command->add_option("--fill-max", style.fill_max, "largest share")->capture_default_str();
  command->add_option("--rotation", style.rotation_deg, "largest turn in degrees")->capture_default_str();
  command->add_option("--mirror", style.mirror, "probability of mirroring")->capture_default_str();
  command->add_option("--blur-min", style.blur_min, "least blur of the background, as a share of the side")
      ->capture_default_str();
  command->add_option("--blur-max", style.blur_max, "largest blur")->capture_default_str();
  command->add_option("--train", options->train_per_stamp, "training scenes per object")->capture_default_str();
  command->add_option("--val", options->val_per_stamp, "validation scenes per object")->capture_default_str();
  command->add_option("--test", options->test_per_stamp, "test scenes per object")->capture_default_str();
  command->add_option("--max-stamps", options->max_stamps, "use only the first so many objects; 0: all")
      ->capture_default_str();
  command->add_option("--seed", options->seed, "seed of everything that is drawn")->capture_default_str();
  command->add_option("--threads", options->threads, "0: one per processor")->capture_default_str();
  command->callback([options, &run] { run = [options] { return draw_scenes(*options); }; });
}

}  // namespace

void add_data_command(CLI::App& app, Run& run) {
  CLI::App* command = app.add_subcommand("data", "Make or fetch data sets.");
  command->require_subcommand(1);
  add_scenes(*command, run);
}

}  // namespace dino
