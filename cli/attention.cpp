#include "cli/commands.h"
#include "cli/image_size.h"
#include "cli/machine.h"
#include "cli/network_options.h"
#include "cli/output.h"
#include "cli/preview.h"
#include "data/decode.h"
#include "data/png.h"
#include "engine/files.h"
#include "engine/progress.h"
#include "engine/text.h"
#include "kernels/common/error.h"
#include "visualize/attention_pictures.h"
#include "visualize/attention_rollout.h"
#include "visualize/picture_names.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <functional>
#include <memory>
#include <set>

namespace dino {
namespace {

namespace fs = std::filesystem;

struct Options {
  std::vector<std::string> images;
  NetworkOptions network;
  std::vector<std::string> weights;  // several: compared
  std::string output = "attention";
  std::string head = "all";
  std::string colors = "heat";
  std::string raw;
  int image_px = 480;
  int limit = 0;
  bool rollout = false, contours = false, preview = false, json = false;
  AttentionOptions attention;
};

/// Finds out before anything is computed whether the results can be kept.
void require_writable(const Options& options, const std::vector<std::string>& pictures) {
  std::vector<std::string> read = options.images;
  read.insert(read.end(), options.weights.begin(), options.weights.end());
  for (const std::string& name : pictures) require_not_read("attention", fs::path(options.output) / name, read);
  if (!options.raw.empty()) {
    require_not_read("attention", options.raw, read);
    require_extension("attention", options.raw, ".safetensors");
  }
  make_output_folder(options.output);
  if (!options.raw.empty()) const AtomicFile trial(options.raw);
}

AttentionMaps maps_of(const OpenNetwork& open, const Image& prepared, const Options& options) {
  Tape tape(*open.context, Tape::Mode::inference);
  Weights weights = Weights::student(tape, open.backbone.store);
  return options.rollout ? compute_rollout(open.backbone.vit, weights, prepared, options.attention)
                         : compute_attention(open.backbone.vit, weights, prepared, options.attention);
}

/// Where the pictures of one image went, and the one that shows most.
struct Drawn {
  std::string summary;
  fs::path sheet;
  std::vector<std::string> files{};
};

nlohmann::ordered_json to_json(const std::string& image, const Drawn& drawn) {
  return {{"image", image}, {"sheet", drawn.sheet.string()}, {"pictures", drawn.files}};
}

/// Decodes every image, and calls `draw(image, number)` for it; one that cannot be drawn is left out, and is an error
/// in the end.
void draw_images(const Options& options, const std::function<Drawn(const Image&, std::size_t)>& draw) {
  std::size_t broken = 0;
  Progress progress("images", static_cast<std::int64_t>(options.images.size()));
  nlohmann::ordered_json images = nlohmann::ordered_json::array(), left_out = nlohmann::ordered_json::array();
  for (std::size_t i = 0; i < options.images.size(); ++i) {
    progress.update(static_cast<std::int64_t>(i), "| " + printable(options.images[i]));
    Image picture;
    try {
      decode_image_file(options.images[i], {}, picture);
      const Drawn drawn = draw(picture, i);
      progress.clear();
      if (options.json) {
        images.push_back(to_json(options.images[i], drawn));
        continue;
      }
      report("{}: {}", printable(options.images[i]), printable(drawn.summary));
      if (!options.preview) continue;
      decode_image_file(drawn.sheet, {}, picture);
      show_preview(picture);
    } catch (const Error& error) {
      if (options.images.size() == 1) throw;
      progress.clear();
      // The reason for the error below: with --quiet it is said as one.
      if (options.json) {
        left_out.push_back({{"image", options.images[i]}, {"reason", error.what()}});
      } else {
        fmt::print(is_quiet() ? stderr : stdout, "left out: {}\n", printable(error.what()));
      }
      ++broken;
    }
  }
  if (options.json) print_json({{"images", images}, {"left_out", left_out}});
  require(broken == 0, "attention", "{} of {} images were left out, for the reasons above", broken,
          options.images.size());
}

AttentionPictureOptions picture_options(const Options& options) {
  return {.colors = color_map_named(options.colors),
          .contours = options.contours,
          .mean_name = options.rollout ? "rollout" : "mean"};
}

/// What the sheet of a comparison calls each network: the file's name, behind its folder's where names are alike.
std::vector<std::string> network_names(const std::vector<std::string>& weights) {
  std::set<std::string> names;
  for (const std::string& file : weights) names.insert(fs::path(file).stem().string());
  std::vector<std::string> result;
  for (const std::string& file : weights) {
    const fs::path path(file);
    const std::string folder = path.parent_path().filename().string();
    const bool alike = names.size() < weights.size() && !folder.empty();
    result.push_back(alike ? folder + "/" + path.stem().string() : path.stem().string());
  }
  return result;
}

int compare_networks(const Options& options) {
  require(options.raw.empty(), "attention", "--raw writes the numbers of one network; got {} --weights, expected one",
          options.weights.size());
  require(options.head == "all", "attention", "a comparison shows all heads; got --head {}; try without it",
          options.head);
  std::vector<std::unique_ptr<OpenNetwork>> networks;
  for (const std::string& weights : options.weights) {
    NetworkOptions one = options.network;
    one.weights = weights;
    networks.push_back(std::make_unique<OpenNetwork>(one));
  }
  const std::vector<std::string> names = network_names(options.weights), stems = picture_names(options.images);
  std::vector<std::string> files;
  for (const std::string& stem : stems) files.push_back(stem + "_compare.png");
  require_writable(options, files);
  draw_images(options, [&](const Image& picture, std::size_t i) {
    std::vector<ComparedAttention> rows;
    for (std::size_t n = 0; n < networks.size(); ++n) {
      Image prepared = prepare_attention_image(picture, options.image_px, networks[n]->backbone.vit.config().patch_px);
      AttentionMaps maps = maps_of(*networks[n], prepared, options);
      rows.push_back({names[n], std::move(prepared), std::move(maps)});
    }
    const Image sheet = comparison_sheet(rows, picture_options(options), networks[0]->context->stream());
    const fs::path path = fs::path(options.output) / files[i];
    write_png(path, sheet.rgb, sheet.height, sheet.width, 3);
    return Drawn{fmt::format("{} networks on {}", networks.size(), path.string()), path, {path.string()}};
  });
  return 0;
}

int attention_command(Options options) {
  require(!options.rollout || ((options.head == "all" || options.head == "mean") && options.attention.layer == -1),
          "attention", "--rollout is of all heads and layers; got --head {} --layer {}; try without them", options.head,
          options.attention.layer);
  if (options.limit > 0 && options.images.size() > static_cast<std::size_t>(options.limit)) {
    // Spread over the list, so that a sorted one shows more than its first folder.
    std::vector<std::string> chosen;
    for (int i = 0; i < options.limit; ++i) {
      chosen.push_back(options.images[static_cast<std::size_t>(i) * options.images.size() /
                                      static_cast<std::size_t>(options.limit)]);
    }
    options.images = chosen;
  }
  if (options.weights.size() > 1) return compare_networks(options);
  if (!options.weights.empty()) options.network.weights = options.weights[0];
  const OpenNetwork open(options.network);
  const bool by_default = options.weights.empty();
  options.weights = {open.weights.string()};
  const VitConfig& config = open.backbone.vit.config();
  AttentionPictureOptions pictures = picture_options(options);
  pictures.heads = options.rollout ? select_heads("mean", 0) : select_heads(options.head, config.heads);
  const std::vector<std::string> stems = picture_names(options.images);
  std::vector<std::string> files;
  for (const std::string& stem : stems) {
    const std::vector<std::string> of_picture = attention_picture_names(stem, config.heads, pictures);
    files.insert(files.end(), of_picture.begin(), of_picture.end());
  }
  require_writable(options, files);
  if (by_default) say("weights: {}", open.weights.string());

  std::vector<AttentionMaps> all_maps;
  std::vector<std::string> map_names;
  std::exception_ptr left_out;
  try {
    draw_images(options, [&](const Image& picture, std::size_t i) {
      const Image prepared = prepare_attention_image(picture, options.image_px, config.patch_px);
      AttentionMaps maps = maps_of(open, prepared, options);
      const auto written = write_attention_pictures(maps, prepared, options.output, stems[i], pictures);
      if (!options.raw.empty()) {
        all_maps.push_back(std::move(maps));
        map_names.push_back(stems[i]);
      }
      Drawn drawn{fmt::format("{} pictures, all on {}", written.size(), written.back().string()), written.back()};
      for (const fs::path& file : written) drawn.files.push_back(file.string());
      return drawn;
    });
    note_large_size(config, options.image_px);
  } catch (const Error&) {
    left_out = std::current_exception();  // the numbers of the others are written first
  }
  if (!options.raw.empty() && !all_maps.empty()) {
    std::vector<NamedArray> arrays;
    for (std::size_t i = 0; i < all_maps.size(); ++i) {
      const auto of_image = attention_arrays(all_maps[i], options.images.size() == 1 ? "" : map_names[i] + ".");
      arrays.insert(arrays.end(), of_image.begin(), of_image.end());
    }
    write_safetensors(options.raw, arrays, {{"weights", open.weights.string()}});
  }
  if (left_out) std::rethrow_exception(left_out);
  return 0;
}

}  // namespace

void add_attention_command(Command app, Run& run) {
  const Command command = app.add_subcommand(
      "attention",
      "Draw what the CLS token looks at: a heat map per head, their mean, overlays, threshold masks, and a sheet of "
      "all.\n\n"
      "  dino_cuda attention photo.jpg\n"
      "  dino_cuda attention photo.jpg --weights dino_deitsmall8_pretrain.pth --output pictures --image-size 480\n"
      "  dino_cuda attention *.jpg --head mean --raw maps.safetensors\n"
      "  dino_cuda attention photo.jpg --layer 0 --contours --colors viridis\n"
      "  dino_cuda attention photo.jpg --rollout --preview      all layers together, shown in the terminal too\n"
      "  dino_cuda attention photo.jpg --weights runs/a/last.safetensors --weights runs/b/last.safetensors\n");
  auto options = std::make_shared<Options>();
  command.add_option("images", options->images, "JPEG, PNG, …").required().type_name("IMAGE");
  command
      .add_option("--weights", options->weights,
                  "checkpoint or weights (default: the newest last.safetensors under runs/); given several times: one "
                  "sheet with a row for each")
      .allow_extra_args(false)
      .type_name("FILE");
  command.add_option("--network", options->network.network, "which network of a checkpoint")
      .one_of({"teacher", "student"})
      .capture_default_str();
  add_foreign_weights_options(command, options->network);
  add_device_option(command, options->network.device);
  command.add_option("--output", options->output, "folder for the pictures").type_name("DIR").capture_default_str();
  command.add_option("--image-size", options->image_px, "short side in pixels at which the network sees the image")
      .in_range(1, 8192)
      .capture_default_str();
  command.add_option("--threshold", options->attention.threshold, "share of the mass that masks keep; 0: no masks")
      .in_range(0.0, 1.0)
      .capture_default_str();
  command.add_option("--layer", options->attention.layer, "block, negative from the end").capture_default_str();
  command.add_option("--head", options->head, "all, mean, or the number of a head").capture_default_str();
  command.add_flag("--rollout", options->rollout,
                   "attention of all layers together instead of one: their products, with a half of each for the "
                   "residual (Abnar and Zuidema)");
  command.add_flag("--contours", options->contours, "also outline the masks on the picture");
  command.add_option("--colors", options->colors, "heat, viridis, inferno, or turbo (a rainbow)")
      .one_of({"heat", "viridis", "inferno", "turbo"})
      .capture_default_str();
  command.add_flag("--preview", options->preview,
                   "also show the sheet in the terminal, which must know 24-bit colours");
  command.add_option("--raw", options->raw, "also write the numbers as safetensors").type_name("FILE");
  command.add_option("--limit", options->limit, "draw only so many of the images, spread over the list").positive();
  add_json_option(command, options->json);
  command.callback([options, &run] { run = [options] { return attention_command(*options); }; });
}

}  // namespace dino
