#include "cli/commands.h"
#include "cli/image_size.h"
#include "cli/machine.h"
#include "cli/output.h"
#include "cli/run_facts.h"
#include "data/dataset.h"
#include "data/survey.h"
#include "engine/files.h"
#include "engine/progress.h"
#include "engine/text.h"
#include "kernels/common/error.h"
#include "train/precision.h"
#include "train/stop_signal.h"
#include "train/suggested_config.h"

#include <algorithm>
#include <memory>
#include <system_error>

namespace dino {
namespace {

namespace fs = std::filesystem;

struct InitCommand {
  std::string images;
  std::string out = "config.toml";
  std::string device = "auto";
  std::int64_t sample = 2000;
  bool json = false;
};

/// The split to test with, or null where there is none.
std::unique_ptr<Dataset> open_test_split(const std::string& path, const Dataset& train) {
  try {
    auto test = open_dataset(path, {.split = "val"});
    return test->size() > 0 && test->summary() != train.summary() ? std::move(test) : nullptr;
  } catch (const Error&) {
    return nullptr;  // there is no such split
  }
}

/// What runs of this data are called: `photos` for `my/photos/`, `cifar-10-batches-bin` likewise.
std::string name_of_run(const fs::path& images) {
  std::error_code error;
  const fs::path whole = fs::weakly_canonical(images, error);
  const std::string name = (error ? images : whole).stem().string();
  return name.empty() || name == "." || name == ".." || !is_utf8(name) ? "run" : name;
}

std::string describe_sides(const Spread& s) {
  return s.least == s.most ? fmt::format("{} px", s.least)
                           : fmt::format("{} px (from {} to {}, nine of ten from {} to {})", s.median, s.least, s.most,
                                         s.low, s.high);
}

void print_findings(const DataSummary& s) {
  report("looked at {} of {} pictures: short side {}, long side {}", s.looked_at, s.pictures,
         describe_sides(s.short_side_px), describe_sides(s.long_side_px));
  const char* colors = s.grey_share >= 0.95 ? "grey" : s.grey_share < 0.05 ? "in colour" : "";
  report("{}; {}; {}", *colors != 0 ? std::string(colors) : fmt::format("{:.0f} % of them grey", 100 * s.grey_share),
         s.broken == 0 ? "none is broken" : fmt::format("{} broken, such as {}", s.broken, s.broken_example),
         s.near_copies == 0 ? "no near copies seen"
                            : fmt::format("{} look like another one, such as {}", s.near_copies, s.near_copy_example));
  report("mean {:.3f} {:.3f} {:.3f}, standard deviation {:.3f} {:.3f} {:.3f} (red, green, blue, from 0 to 1)",
         s.mean[0], s.mean[1], s.mean[2], s.deviation[0], s.deviation[1], s.deviation[2]);
  if (s.classes == 0) {
    report("no labels");
  } else {
    report("{} {} of {} pictures{}", s.classes, s.classes == 1 ? "class" : "classes",
           s.smallest_class == s.largest_class ? fmt::format("{}", s.smallest_class)
                                               : fmt::format("{} to {}", s.smallest_class, s.largest_class),
           s.test_pictures > 0 ? fmt::format(", and {} more to test with", s.test_pictures) : "");
  }
}

nlohmann::ordered_json to_json(const Spread& s) {
  return {{"least", s.least}, {"low", s.low}, {"median", s.median}, {"high", s.high}, {"most", s.most}};
}

nlohmann::ordered_json to_json(const DataSummary& s, const MachineSummary& machine, const SuggestedConfig& suggested,
                               const std::string& out) {
  nlohmann::ordered_json json = {
      {"config", out},
      {"data",
       {{"pictures", s.pictures},
        {"test_pictures", s.test_pictures},
        {"classes", s.classes},
        {"smallest_class", s.smallest_class},
        {"largest_class", s.largest_class},
        {"looked_at", s.looked_at},
        {"broken", s.broken},
        {"short_side_px", to_json(s.short_side_px)},
        {"long_side_px", to_json(s.long_side_px)},
        {"grey_share", s.grey_share},
        {"mean", s.mean},
        {"standard_deviation", s.deviation},
        {"near_copies", s.near_copies}}},
      {"machine", {{"gpu", machine.has_gpu}, {"memory_bytes", machine.memory_bytes}, {"cores", machine.cores}}},
      {"keys", nlohmann::ordered_json::array()},
      {"notes", suggested.notes}};
  for (const ConfigReason& reason : suggested.reasons)
    json["keys"].push_back(
        {{"key", reason.key}, {"toml", config_value(suggested.config, reason.key)}, {"reason", reason.reason}});
  return json;
}

/// The machine, with its largest batch as `plan` finds it, where it is here. `images` must outlive the summary.
MachineSummary machine_for(const std::string& device, const Dataset& images) {
  MachineSummary machine = summarize_machine(device);
  if (machine.memory_bytes == 0) return machine;  // a GPU that is not here
  const std::unique_ptr<Context> context = open_machine(device, 0);
  SingleProcess alone;
  const MemoryLimits limits = memory_limits(*context, alone);
  machine.memory_bytes =
      machine.has_gpu ? limits.device_bytes : std::min({limits.device_bytes, limits.host_bytes, limits.address_bytes});
  machine.largest_batch = [limits, on = context->device(), &images](const TrainConfig& config, int most) {
    const RunFacts facts = run_facts(config, on, compute_type_for(config.precision, on), &images,
                                     most_knn_pictures(config, images.size()));
    return largest_batch(config, facts, limits, most);
  };
  return machine;
}

/// A picture to look at first: a file that can be read, or the word for one.
std::string example_of(const Dataset& images) {
  constexpr std::int64_t kTries = 20;
  Image image;
  for (std::int64_t i = 0; i < std::min(kTries, images.size()); ++i) {
    const std::string name = images.name(i);
    if (!why_no_file(name).empty()) break;  // a place in a larger file
    try {
      images.decode(i, image);
      return shell_word(name);
    } catch (const std::exception&) {
      continue;  // broken, or too large
    }
  }
  return "PICTURE";
}

int init(const InitCommand& options) {
  const fs::path out(options.out);
  require(!fs::exists(fs::symlink_status(out)), "init", "{} exists already, and nothing is overwritten; try --out FILE",
          out.string());
  require(is_utf8(options.images), "init",
          "the name {} is not UTF-8, as a configuration must be; try renaming the folder, or another path to it",
          options.images);
  { const AtomicFile trial(out); }
  const std::unique_ptr<Dataset> images = open_dataset(options.images);
  const std::unique_ptr<Dataset> test = open_test_split(options.images, *images);
  const bool text = !options.json;
  if (text) report("{}", images->summary());

  // Before the survey, whose threads take addresses that a run will have.
  const MachineSummary machine = machine_for(options.device, *images);
  const StopSignal stop;
  DataSummary summary;
  try {
    Progress bar("looking at pictures", std::min(images->size(), options.sample));
    summary = survey(*images, test.get(), {.most_pictures = options.sample}, [&](std::int64_t done, std::int64_t) {
      StopSignal::check();
      bar.update(done);
    });
  } catch (const Interrupted&) {
    say("dino_cuda: stopped; nothing was written");
    return 128 + StopSignal::received();
  }
  require(summary.broken < summary.looked_at, "init", "none of {} pictures can be read, such as: {}", summary.looked_at,
          summary.broken_example);

  SuggestedConfig suggested = suggest_config(summary, machine);
  if (machine.has_gpu && machine.memory_bytes == 0) {
    suggested.notes.push_back("the GPU is not in this machine, so its memory is not known; dino_cuda plan " +
                              options.out + " --for NAME tells the largest batch of one by name");
  }
  suggested.config.data_path = options.images;
  suggested.config.output_dir = "runs/" + name_of_run(options.images);
  suggested.reasons.push_back({"data_path", "the pictures, from where train is called"});
  suggested.reasons.push_back({"output_dir", "checkpoints and logs"});
  const std::string title =
      fmt::format("Made by dino_cuda init for {}: {} pictures, on {}.", options.images, summary.pictures,
                  machine.has_gpu ? "a GPU" : fmt::format("a CPU with {} cores", machine.cores));
  {
    AtomicFile file(out);
    file.write(write_suggested_config(suggested, title));
    file.commit();
  }
  if (!text) {
    print_json(to_json(summary, machine, suggested, out.string()));
    return 0;
  }
  print_findings(summary);
  for (const std::string& note : suggested.notes) report("note: {}", note);
  report("wrote {}, with a reason beside each key\n\nNext:", printable(out.string()));
  report("  dino_cuda plan {}", shell_word(out.string()));
  report("  dino_cuda train {}", shell_word(out.string()));
  report("  dino_cuda report {}", shell_word(suggested.config.output_dir));
  const int crop_px = suggested.config.global_crops_size;
  const std::string size =
      crop_px < 224 ? fmt::format(" --image-size {}", drawing_size(crop_px, suggested.config.patch_size)) : "";
  report("  dino_cuda attention {} --weights {}{}", example_of(*images),
         shell_word(suggested.config.output_dir + "/last.safetensors"), size);
  return 0;
}

}  // namespace

void add_init_command(Command app, Run& run) {
  const Command command = app.add_subcommand(
      "init",
      "Look at a data set and write a configuration that suits it and this machine. It counts pictures, sizes, broken, "
      "grey and\n"
      "like ones and classes, and gives the reason beside each key. Nothing is overwritten. (Weights to start from are "
      "another matter:\n"
      "the key `init` of `dino_cuda train`.)\n\n"
      "  dino_cuda init my/photos\n"
      "  dino_cuda init my/photos --out photos.toml --device cpu\n");
  auto options = std::make_shared<InitCommand>();
  command.add_option("images", options->images, "folder of pictures, with or without class folders, or a list of them")
      .required()
      .type_name("DIR");
  command.add_option("--out", options->out, "file to write; it must not exist").type_name("FILE").capture_default_str();
  add_device_option(command, options->device);
  command
      .add_option("--sample", options->sample, "pictures to look at, evenly spread; for a quarter of a minute at most")
      .positive()
      .capture_default_str();
  add_json_option(command, options->json);
  command.callback([options, &run] { run = [options] { return init(*options); }; });
}

}  // namespace dino
