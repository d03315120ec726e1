#include "cli/commands.h"
#include "cli/output.h"
#include "data/published.h"
#include "data/scenes.h"
#include "engine/progress.h"
#include "engine/text.h"
#include "kernels/common/error.h"
#include "train/stop_signal.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace dino {
namespace {

struct SceneCommand : SceneOptions {
  bool json = false;
};

int draw_scenes(const SceneCommand& options) {
  std::optional<Progress> bar;
  const SceneSummary summary = make_scenes(options, [&](std::int64_t done, std::int64_t total) {
    if (!bar) bar.emplace("drawing scenes", total);
    bar->update(done, "");
  });
  bar.reset();
  if (options.json) {
    print_json({{"folder", options.out.string()},
                {"scenes", summary.scenes},
                {"objects", summary.stamps},
                {"missing_objects", summary.missing_stamps},
                {"classes", summary.classes},
                {"photographs", summary.photographs}});
  } else {
    report("{}: {} scenes of {} objects in {} classes, on {} photographs", options.out.string(), summary.scenes,
           summary.stamps, summary.classes, summary.photographs);
  }
  if (summary.missing_stamps > 0)
    say("dino_cuda: {} of the objects are not on this machine and were left out", summary.missing_stamps);
  return 0;
}

void add_scenes(Command data, Run& run) {
  const Command command =
      data.add_subcommand("scenes",
                          "Draw labelled scenes whose object masks are known: cut-out photographs on "
                          "blurred photographs, from the packages\n"
                          "tuxpaint-stamps-default and mate-backgrounds.\n\n"
                          "  dino_cuda data scenes --out data_sets/scenes\n");
  auto options = std::make_shared<SceneCommand>();
  SceneStyle& style = options->style;
  command.add_option("--out", options->out, "folder to make; it must not exist, or be empty")
      .required()
      .type_name("DIR");
  command.add_option("--stamps", options->stamps, "folder of the cut-outs").capture_default_str();
  command.add_option("--backgrounds", options->backgrounds, "folder of photographs (JPEG)").capture_default_str();
  command.add_option("--table", options->table,
                     "which cut-outs, and their classes: path<tab>class (default: built in)");
  command.add_option("--size", style.size_px, "side of a scene in pixels").capture_default_str();
  command.add_option("--fill-min", style.fill_min, "least share of the frame that a cut-out fills")
      .capture_default_str();
  command.add_option("--fill-max", style.fill_max, "largest share").capture_default_str();
  command.add_option("--rotation", style.rotation_deg, "largest turn in degrees").capture_default_str();
  command.add_option("--mirror", style.mirror, "probability of mirroring").capture_default_str();
  command.add_option("--blur-min", style.blur_min, "least blur of the background, as a share of the side")
      .capture_default_str();
  command.add_option("--blur-max", style.blur_max, "largest blur").capture_default_str();
  command.add_option("--train", options->train_per_stamp, "training scenes per object").capture_default_str();
  command.add_option("--val", options->val_per_stamp, "validation scenes per object").capture_default_str();
  command.add_option("--test", options->test_per_stamp, "test scenes per object").capture_default_str();
  command.add_option("--max-stamps", options->max_stamps, "use only the first so many objects; 0: all")
      .not_negative()
      .capture_default_str();
  command.add_option("--seed", options->seed, "seed of everything that is drawn").capture_default_str();
  command.add_option("--threads", options->threads, "0: one per processor").not_negative().capture_default_str();
  add_json_option(command, options->json);
  command.callback([options, &run] { run = [options] { return draw_scenes(*options); }; });
}

/// One bar for each step of getting a data set, in whole MiB.
class StepBars {
 public:
  void update(std::string_view step, std::int64_t done, std::int64_t total) {
    if (total == 0) return;  // a download of unknown size
    if (step != step_) {
      bar_.reset();  // ends the line of the last one
      bar_.emplace(std::string(step), mebibytes(total));
      step_ = step;
      shown_ = -1;
    }
    const std::int64_t now = done >= total ? mebibytes(total) : done >> 20;
    if (now != shown_) bar_->update(now, "MiB");
    shown_ = now;
  }

 private:
  static std::int64_t mebibytes(std::int64_t bytes) { return (bytes + (1 << 20) - 1) >> 20; }
  std::optional<Progress> bar_;
  std::string step_;
  std::int64_t shown_ = -1;
};

struct GetOptions : FetchOptions {
  std::string name;
  std::string md5;
  bool json = false;
};

int get_dataset(const GetOptions& options) {
  const auto sets = published_datasets();
  PublishedDataset set = *std::find_if(sets.begin(), sets.end(),
                                       [&](const PublishedDataset& known) { return known.name == options.name; });
  if (!options.md5.empty()) {
    // Another archive: only its folder has to be the same.
    set.md5 = options.md5;
    set.bytes = set.pictures = set.val_pictures = 0;
  }
  struct Interrupted {};
  const StopSignal stop;
  FetchedDataset found;
  try {
    StepBars bars;
    found = fetch_dataset(set, options, [&](std::string_view step, std::int64_t done, std::int64_t total) {
      if (StopSignal::received() != 0) throw Interrupted();
      bars.update(step, done, total);
    });
  } catch (const Interrupted&) {
    say("dino_cuda: stopped; the same command continues the download");
    return 128 + StopSignal::received();
  }
  if (options.json) {
    print_json({{"folder", found.folder.string()},
                {"pictures", found.pictures},
                {"test_pictures", found.val_pictures},
                {"classes", found.classes},
                {"was_there", found.was_there},
                {"config", set.config}});
    return 0;
  }
  report("{}: {} pictures to train on, {} to test with, {} classes{}", found.folder.string(), found.pictures,
         found.val_pictures, found.classes, found.was_there ? " (it was there already)" : "");
  report("Next: ./dino_cuda train {} --data_path {}", set.config, shell_word(found.folder.string()));
  return 0;
}

void add_get(Command data, Run& run) {
  std::string description =
      "Download a published data set, check it and unpack it. A download that was interrupted is continued; a set that "
      "is there already is left as it is.\n\n";
  std::vector<std::string> names;
  for (const PublishedDataset& set : published_datasets()) {
    names.push_back(set.name);
    description += fmt::format("  {}\n      {}\n      {}, {} MB\n      {}\n", set.name, set.title, set.url,
                               set.bytes / 1'000'000, set.terms);
  }
  description +=
      "\n  dino_cuda data get cifar10\n"
      "  dino_cuda data get tiny-imagenet --from ~/Downloads/tiny-imagenet-200.zip\n";
  const Command command = data.add_subcommand("get", description);
  auto options = std::make_shared<GetOptions>();
  command.add_option("name", options->name, "which data set").required().one_of(names);
  command.add_option("--output", options->output, "folder that the set becomes a folder of")
      .capture_default_str()
      .type_name("DIR");
  command.add_option("--from", options->from, "an archive on this machine, or another URL of it (http, https, file)")
      .type_name("FILE|URL");
  command.add_flag("--keep-archive", options->keep_archive, "do not remove the downloaded archive once it is unpacked");
  command
      .add_option("--md5", options->md5,
                  "checksum to expect instead of the published one, for an archive of your own with a part of the "
                  "set")
      .type_name("SUM");
  add_json_option(command, options->json);
  command.callback([options, &run] { run = [options] { return get_dataset(*options); }; });
}

}  // namespace

void add_data_command(Command app, Run& run) {
  const Command command = app.add_subcommand(
      "data",
      "Make or fetch data sets.\n\n  dino_cuda data get cifar10\n  dino_cuda data scenes --out data_sets/scenes\n");
  command.require_subcommand(1, 1);
  add_get(command, run);
  add_scenes(command, run);
}

}  // namespace dino
