#include "cli/commands.h"
#include "data/decode.h"
#include "kernels/common/error.h"
#include "models/backbone.h"
#include "visualize/attention_pictures.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
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

/// Names for the pictures of each image: its stem, with its folder where stems meet twice.
std::vector<std::string> unique_stems(const std::vector<std::string>& images) {
  std::set<std::string> taken;
  std::vector<std::string> stems;
  for (const std::string& image : images) {
    const std::filesystem::path path(image);
    std::string stem = path.stem().string();
    if (taken.contains(stem)) stem = path.parent_path().filename().string() + "_" + stem;
    for (int n = 2; !taken.insert(stem).second; ++n) stem = fmt::format("{}_{}", path.stem().string(), n);
    stems.push_back(stem);
  }
  return stems;
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

  const std::vector<std::string> stems = unique_stems(options.images);
  std::vector<AttentionMaps> all_maps;
  int broken = 0;
  for (std::size_t i = 0; i < options.images.size(); ++i) {
    Image picture;
    try {
      decode_image_file(options.images[i], {}, picture);
    } catch (const Error& error) {
      fmt::print(stderr, "dino_cuda: {}\n", error.what());
      ++broken;
      continue;
    }
    const Image prepared =
        prepare_attention_image(picture, options.image_px, backbone.vit.config().patch_px, context->stream());
    Tape tape(*context, Tape::Mode::inference);
    Weights weights = Weights::student(tape, backbone.store);
    AttentionMaps maps = compute_attention(backbone.vit, weights, prepared, options.attention);
    const auto written = write_attention_pictures(maps, prepared, options.output, stems[i], {.heads = heads});
    fmt::print("{}: {} pictures, all on {}\n", options.images[i], written.size(), written.back().string());
    if (!options.raw.empty()) all_maps.push_back(std::move(maps));
  }
  if (!options.raw.empty() && !all_maps.empty()) {
    std::vector<NamedArray> arrays;
    for (std::size_t i = 0; i < all_maps.size(); ++i) {
      const auto of_image = attention_arrays(all_maps[i], all_maps.size() == 1 ? "" : stems[i] + ".");
      arrays.insert(arrays.end(), of_image.begin(), of_image.end());
    }
    write_safetensors(options.raw, arrays, {{"weights", weights_path.string()}});
  }
  require(broken == 0, "attention", "{} of {} images could not be read", broken, options.images.size());
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
      ->check(CLI::Range(1, 16384))
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
