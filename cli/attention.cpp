#include "cli/commands.h"
#include "data/decode.h"
#include "engine/files.h"
#include "engine/progress.h"
#include "kernels/common/error.h"
#include "models/backbone.h"
#include "visualize/attention_pictures.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <map>
#include <memory>
#include <set>

namespace dino {
namespace {

constexpr const char* kRunsFolder = "runs";

struct Options {
  std::vector<std::string> images;
  std::string weights;
  std::string network = "teacher";
  std::string output = "attention";
  std::string head = "all";
  std::string raw;
  int image_px = 480;
  int limit = 0;
  AttentionOptions attention;
};

/// The newest checkpoint of the runs in the default folder.
std::filesystem::path newest_checkpoint() {
  std::filesystem::path newest;
  std::filesystem::file_time_type newest_time{};
  std::error_code error;
  for (const auto& run : std::filesystem::directory_iterator(kRunsFolder, error)) {
    const std::filesystem::path checkpoint = run.path() / "last.safetensors";
    const auto time = std::filesystem::last_write_time(checkpoint, error);
    if (!error && (newest.empty() || time > newest_time)) {
      newest = checkpoint;
      newest_time = time;
    }
  }
  require(!newest.empty(), "attention",
          "no weights were given and there is no checkpoint under {}/; try --weights FILE, or train first: "
          "./scripts/demo.sh",
          kRunsFolder);
  return newest;
}

/// Names for the pictures of each image: its stem, behind its folder's name where several images have that stem, and
/// with a number where even these are alike.
std::vector<std::string> unique_stems(const std::vector<std::string>& images) {
  std::map<std::string, int> uses;
  for (const std::string& image : images) ++uses[std::filesystem::path(image).stem().string()];
  std::set<std::string> taken;
  std::vector<std::string> names;
  for (const std::string& image : images) {
    const std::filesystem::path path(image);
    const std::string folder = path.parent_path().filename().string();
    std::string name = path.stem().string();
    if (uses[name] > 1 && !folder.empty()) name = folder + "_" + name;
    std::string unique = name;
    for (int n = 2; !taken.insert(unique).second; ++n) unique = fmt::format("{}_{}", name, n);
    names.push_back(unique);
  }
  return names;
}

/// Finds out before anything is computed whether the results can be kept.
void require_writable(const Options& options) {
  make_output_folder(options.output);
  if (!options.raw.empty()) const AtomicFile trial(options.raw);
}

int attention_command(Options options) {
  if (options.limit > 0 && options.images.size() > static_cast<std::size_t>(options.limit)) {
    // Spread over the list, so that a sorted one shows more than its first folder.
    std::vector<std::string> chosen;
    for (int i = 0; i < options.limit; ++i) {
      chosen.push_back(options.images[static_cast<std::size_t>(i) * options.images.size() /
                                      static_cast<std::size_t>(options.limit)]);
    }
    options.images = chosen;
  }
  const std::filesystem::path weights_path =
      options.weights.empty() ? newest_checkpoint() : std::filesystem::path(options.weights);
  if (options.weights.empty()) fmt::print("weights: {}\n", weights_path.string());
  const auto context = make_cpu_context();
  const Network network = options.network == "student" ? Network::student : Network::teacher;
  const Backbone backbone(*context, weights_path, DType::float32, {.network = network});
  const std::vector<int> heads = select_heads(options.head, backbone.vit.config().heads);
  require_writable(options);

  const std::vector<std::string> stems = unique_stems(options.images);
  std::vector<AttentionMaps> all_maps;
  std::vector<std::string> map_names;
  std::size_t broken = 0;
  Progress progress("images", static_cast<std::int64_t>(options.images.size()), 0, stdout);
  for (std::size_t i = 0; i < options.images.size(); ++i) {
    progress.update(static_cast<std::int64_t>(i), "| " + options.images[i]);
    Image prepared;
    try {
      Image picture;
      decode_image_file(options.images[i], {}, picture);
      prepared = prepare_attention_image(picture, options.image_px, backbone.vit.config().patch_px);
    } catch (const Error& error) {
      if (options.images.size() == 1) throw;
      progress.message(fmt::format("left out: {}", error.what()));
      ++broken;
      continue;
    }
    Tape tape(*context, Tape::Mode::inference);
    Weights weights = Weights::student(tape, backbone.store);
    AttentionMaps maps = compute_attention(backbone.vit, weights, prepared, options.attention);
    const auto written = write_attention_pictures(maps, prepared, options.output, stems[i], {.heads = heads});
    progress.message(
        fmt::format("{}: {} pictures, all on {}", options.images[i], written.size(), written.back().string()));
    if (options.raw.empty()) continue;
    all_maps.push_back(std::move(maps));
    map_names.push_back(stems[i]);
  }
  if (!options.raw.empty() && !all_maps.empty()) {
    std::vector<NamedArray> arrays;
    for (std::size_t i = 0; i < all_maps.size(); ++i) {
      const auto of_image = attention_arrays(all_maps[i], options.images.size() == 1 ? "" : map_names[i] + ".");
      arrays.insert(arrays.end(), of_image.begin(), of_image.end());
    }
    write_safetensors(options.raw, arrays, {{"weights", weights_path.string()}});
  }
  require(broken == 0, "attention", "{} of {} images were left out, for the reasons above", broken,
          options.images.size());
  return 0;
}

}  // namespace

void add_attention_command(CLI::App& app, Run& run) {
  CLI::App* command = app.add_subcommand(
      "attention",
      "Draw what the CLS token looks at: a heat map per head, their mean, overlays, threshold masks, and a sheet of "
      "all.\n\n"
      "  dino_cuda attention photo.jpg\n"
      "  dino_cuda attention photo.jpg --weights dino_deitsmall8_pretrain.pth --output pictures --image-size 480\n"
      "  dino_cuda attention *.jpg --head mean --raw maps.safetensors\n");
  auto options = std::make_shared<Options>();
  command->add_option("images", options->images, "JPEG, PNG, …")->required()->type_name("IMAGE");
  command
      ->add_option("--weights", options->weights,
                   "checkpoint or weights (default: the newest last.safetensors under runs/)")
      ->type_name("FILE");
  command->add_option("--network", options->network, "which network of a checkpoint")
      ->check(CLI::IsMember({"teacher", "student"}))
      ->capture_default_str();
  command->add_option("--output", options->output, "folder for the pictures")->type_name("DIR")->capture_default_str();
  command->add_option("--image-size", options->image_px, "short side in pixels at which the network sees the image")
      ->check(CLI::Range(1, 8192))
      ->capture_default_str();
  command->add_option("--threshold", options->attention.threshold, "share of the mass that masks keep; 0: no masks")
      ->check(CLI::Range(0.0, 1.0))
      ->capture_default_str();
  command->add_option("--layer", options->attention.layer, "block, negative from the end")->capture_default_str();
  command->add_option("--head", options->head, "all, mean, or the number of a head")->capture_default_str();
  command->add_option("--raw", options->raw, "also write the numbers as safetensors")->type_name("FILE");
  command->add_option("--limit", options->limit, "draw only so many of the images, spread over the list")
      ->check(CLI::PositiveNumber);
  command->callback([options, &run] { run = [options] { return attention_command(*options); }; });
}

}  // namespace dino
