#include "cli/commands.h"
#include "cli/image_size.h"
#include "cli/network_options.h"
#include "cli/output.h"
#include "cli/preview.h"
#include "data/decode.h"
#include "data/png.h"
#include "engine/files.h"
#include "engine/progress.h"
#include "kernels/common/error.h"
#include "visualize/attention.h"
#include "visualize/drawing.h"
#include "visualize/patch_pca.h"
#include "visualize/picture_names.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <memory>

namespace dino {
namespace {

struct PcaCommand {
  std::vector<std::string> images;
  NetworkOptions network;
  std::string output = "pca";
  int image_px = 480;
  int tile_px = 240;
  bool whole = false, preview = false, json = false;
};

/// A picture on a white square of `side_px`, reduced where it is larger.
Image on_square(const Image& picture, int side_px) {
  const Image small = reduce_to(picture, side_px);
  Image square;
  square.resize(side_px, side_px);
  std::fill(square.rgb.begin(), square.rgb.end(), std::uint8_t{255});
  const int top = (side_px - small.height) / 2, left = (side_px - small.width) / 2;
  for (int y = 0; y < small.height; ++y)
    std::copy_n(small.rgb.begin() + static_cast<std::ptrdiff_t>(y) * small.width * 3, small.width * 3,
                square.rgb.begin() + (static_cast<std::ptrdiff_t>(top + y) * side_px + left) * 3);
  return square;
}

int draw_pca(const PcaCommand& options) {
  const OpenNetwork open(options.network);
  if (options.network.weights.empty()) say("weights: {}", open.weights.string());
  const std::filesystem::path folder(options.output), sheet_path = folder / "pca_sheet.png";
  std::vector<std::filesystem::path> paths;
  const std::vector<std::string> names = picture_names(options.images);
  for (std::size_t i = 0; i < names.size(); ++i) paths.push_back(folder / fmt::format("{:02}_{}_pca.png", i, names[i]));
  for (const std::filesystem::path& path : paths) require_not_read("pca", path, options.images);
  require_not_read("pca", sheet_path, options.images);
  make_output_folder(options.output);
  note_large_size(open.backbone.vit.config(), options.image_px);
  const int patch_px = open.backbone.vit.config().patch_px;
  std::vector<Image> prepared;
  std::vector<PatchTokens> tokens;
  {
    Progress bar("images", static_cast<std::int64_t>(options.images.size()));
    bar.update(0);
    for (const std::string& image : options.images) {
      Image picture;
      decode_image_file(image, {}, picture);
      prepared.push_back(prepare_attention_image(picture, options.image_px, patch_px));
      Tape tape(*open.context, Tape::Mode::inference);
      Weights weights = Weights::student(tape, open.backbone.store);
      tokens.push_back(patch_tokens(open.backbone.vit, weights, prepared.back()));
      bar.update(static_cast<std::int64_t>(tokens.size()));
    }
  }
  const PatchColors colors = color_patches(tokens, !options.whole);

  std::vector<Image> inputs, pictures;
  std::vector<std::string> files;
  for (std::size_t i = 0; i < prepared.size(); ++i) {
    const Image drawn = enlarge_cells(colors.colors[i], tokens[i].rows, tokens[i].columns, patch_px);
    write_png(paths[i], drawn.rgb, drawn.height, drawn.width, 3);
    files.push_back(paths[i].string());
    inputs.push_back(on_square(prepared[i], options.tile_px));
    pictures.push_back(on_square(drawn, options.tile_px));
  }
  // Rows of at most eight pictures, each above its colours.
  const std::size_t columns = std::min<std::size_t>(8, inputs.size());
  std::vector<Image> tiles;
  for (std::size_t begin = 0; begin < inputs.size(); begin += columns) {
    for (const auto* row : {&inputs, &pictures}) {
      for (std::size_t i = begin; i < begin + columns; ++i) {
        if (i < row->size()) {
          tiles.push_back((*row)[i]);
        } else {
          tiles.push_back(tiles.front());
          std::fill(tiles.back().rgb.begin(), tiles.back().rgb.end(), std::uint8_t{255});
        }
      }
    }
  }
  const Image sheet = tile(tiles, static_cast<int>(columns));
  write_png(sheet_path, sheet.rgb, sheet.height, sheet.width, 3);
  if (options.json) {
    print_json({{"weights", open.weights.string()},
                {"sheet", sheet_path.string()},
                {"pictures", files},
                {"foreground_only", !options.whole},
                {"explained_variance", colors.explained}});
    return 0;
  }
  report("{} images on {}; red, green and blue stand for {:.0f} %, {:.0f} % and {:.0f} % of the variance{}",
         prepared.size(), sheet_path.string(), 100 * colors.explained[0], 100 * colors.explained[1],
         100 * colors.explained[2], options.whole ? "" : " in the foreground");
  if (options.preview) show_preview(sheet);
  return 0;
}

}  // namespace

void add_pca_command(Command app, Run& run) {
  const Command command = app.add_subcommand(
      "pca",
      "Colour the patches of pictures by what the network makes of them: three principal components of the patch "
      "tokens "
      "become red, green\n"
      "and blue, in one basis for all pictures, so that like parts have like colours across them. The first component "
      "tells the\n"
      "foreground, which is analysed on its own, from the background, which is black.\n\n"
      "  dino_cuda pca dogs/*.jpg --weights dino_deitsmall8_pretrain.pth\n"
      "  dino_cuda pca photo.jpg --whole                        no foreground: all patches in colour\n");
  auto options = std::make_shared<PcaCommand>();
  command.add_option("images", options->images, "JPEG, PNG, …").required().type_name("IMAGE");
  add_network_options(command, options->network, false);
  command.add_option("--output", options->output, "folder for the pictures").type_name("DIR").capture_default_str();
  command.add_option("--image-size", options->image_px, "short side in pixels at which the network sees the images")
      .in_range(1, 8192)
      .capture_default_str();
  command.add_option("--tile", options->tile_px, "side of a picture on the sheet in pixels")
      .in_range(16, 1024)
      .capture_default_str();
  command.add_flag("--whole", options->whole, "colour all patches instead of the foreground only");
  add_json_option(command, options->json);
  command.add_flag("--preview", options->preview,
                   "also show the sheet in the terminal, which must know 24-bit colours");
  command.callback([options, &run] { run = [options] { return draw_pca(*options); }; });
}

}  // namespace dino
