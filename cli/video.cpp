#include "visualize/video.h"
#include "cli/commands.h"
#include "cli/image_size.h"
#include "cli/network_options.h"
#include "cli/output.h"
#include "engine/progress.h"
#include "kernels/common/error.h"
#include "train/stop_signal.h"
#include "visualize/attention_pictures.h"
#include "visualize/attention_rollout.h"
#include "visualize/drawing.h"

#include <fmt/format.h>

#include <cstdio>
#include <filesystem>
#include <memory>
#include <optional>

namespace dino {
namespace {

struct VideoCommand {
  std::string input, output;
  NetworkOptions network;
  std::string head = "mean";
  std::string colors = "heat";
  std::string show = "overlay";
  int image_px = 480;
  double fps = 25;
  bool rollout = false, json = false;
  AttentionOptions attention;
};

Image draw_frame(const AttentionMaps& maps, const Image& prepared, int head, const VideoCommand& options,
                 const AttentionPictureOptions& pictures) {
  if (options.show == "mask") return spotlight(prepared, maps.mask_of(head), maps.columns, maps.patch_px);
  if (options.show == "contour") return outline(prepared, maps.mask_of(head), maps.columns, maps.patch_px, 2);
  const Image overlay = attention_overlay(maps, prepared, head, pictures);
  return options.show == "both" ? tile({prepared, overlay}, 2, 0) : overlay;
}

int draw_video(const VideoCommand& options) {
  require(options.show == "overlay" || options.show == "both" || options.attention.threshold > 0, "video",
          "--show {} needs masks; got --threshold 0, expected more", options.show);
  require(!options.rollout || (options.head == "mean" && options.attention.layer == -1), "video",
          "--rollout is of all heads and layers; got --head {} --layer {}; try without them", options.head,
          options.attention.layer);
  const OpenNetwork open(options.network);
  if (options.network.weights.empty()) say("weights: {}", open.weights.string());
  const VitConfig& config = open.backbone.vit.config();
  const int head = options.rollout ? -1 : select_heads(options.head, config.heads).front();
  require(options.head != "all", "video", "a video shows one map; got --head all, expected mean or a number");
  const AttentionPictureOptions pictures{.colors = color_map_named(options.colors)};
  std::error_code none;
  require(!std::filesystem::is_directory(options.input, none) ||
              !std::filesystem::equivalent(options.input, options.output, none),
          "video", "frames would be written among those that are read, in {}; try another --output", options.input);
  require_not_read("video", options.output, {options.input, open.weights.string()});
  const auto frames = open_frames(options.input, options.fps);
  const auto writer = create_frames(options.output, options.fps);
  note_large_size(config, options.image_px);

  const StopSignal stop;
  std::int64_t done = 0;
  {
    // A video does not say beforehand how many frames it has.
    std::optional<Progress> bar;
    if (frames->count() > 0) bar.emplace("frames", frames->count());
    Image frame;
    while (StopSignal::received() == 0 && frames->next(frame)) {
      const Image prepared = prepare_attention_image(frame, options.image_px, config.patch_px);
      Tape tape(*open.context, Tape::Mode::inference);
      Weights weights = Weights::student(tape, open.backbone.store);
      const AttentionMaps maps = options.rollout
                                     ? compute_rollout(open.backbone.vit, weights, prepared, options.attention)
                                     : compute_attention(open.backbone.vit, weights, prepared, options.attention);
      writer->write(draw_frame(maps, prepared, head, options, pictures));
      ++done;
      if (bar) {
        bar->update(done);
      } else if (done % 25 == 0) {
        say("{} frames", done);
      }
    }
  }
  writer->finish();
  const bool finished = StopSignal::received() == 0;
  if (options.json) {
    print_json(
        {{"weights", open.weights.string()}, {"output", options.output}, {"frames", done}, {"finished", finished}});
  } else {
    report("{}: {} frames", options.output, done);
  }
  // Whoever makes a film of the folder would take them for the end of it.
  const std::filesystem::path next = std::filesystem::path(options.output) / fmt::format("frame_{:06}.png", done + 1);
  if (std::filesystem::exists(next, none))
    say("{} and what follows are frames of an earlier run; try another --output, or remove them", next.string());
  if (finished) return 0;
  say("dino_cuda: stopped; the frames so far are kept");
  return 128 + StopSignal::received();
}

}  // namespace

void add_video_command(Command app, Run& run) {
  const Command command = app.add_subcommand(
      "video",
      "Draw the attention of every frame of a video, or of a folder of frames, one at a time. Videos are read and "
      "written by ffmpeg,\n"
      "which must be installed; folders need nothing.\n\n"
      "  dino_cuda video clip.mp4 --output attention.mp4\n"
      "  dino_cuda video clip.mp4 --output attention.mp4 --show both --head 3\n"
      "  dino_cuda video frames/ --output drawn/               PNG to PNG\n");
  auto options = std::make_shared<VideoCommand>();
  command.add_option("input", options->input, "video, or folder of pictures in the order of their names")
      .required()
      .type_name("FILE|DIR");
  command.add_option("--output", options->output, "video (.mp4, .webm, .mkv, .mov, .gif), or folder for PNG files")
      .required()
      .type_name("FILE|DIR");
  add_network_options(command, options->network, false);
  command.add_option("--head", options->head, "mean, or the number of a head").capture_default_str();
  command.add_option("--layer", options->attention.layer, "block, negative from the end").capture_default_str();
  command.add_flag("--rollout", options->rollout, "attention of all layers together instead of one");
  command.add_option("--show", options->show, "overlay; both (the frame beside it); mask; contour")
      .one_of({"overlay", "both", "mask", "contour"})
      .capture_default_str();
  command.add_option("--threshold", options->attention.threshold, "share of the mass that masks keep")
      .in_range(0.0, 1.0)
      .capture_default_str();
  command.add_option("--colors", options->colors, "heat, viridis, inferno, or turbo (a rainbow)")
      .one_of({"heat", "viridis", "inferno", "turbo"})
      .capture_default_str();
  command.add_option("--image-size", options->image_px, "short side in pixels at which the network sees the frames")
      .in_range(1, 8192)
      .capture_default_str();
  command.add_option("--fps", options->fps, "frames a second, of what is read and what is written")
      .positive()
      .capture_default_str();
  add_json_option(command, options->json);
  command.callback([options, &run] { run = [options] { return draw_video(*options); }; });
}

}  // namespace dino
