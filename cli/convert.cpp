#include "cli/commands.h"
#include "cli/output.h"
#include "engine/files.h"
#include "kernels/common/error.h"
#include "models/backbone.h"
#include "models/weights_export.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>

namespace dino {
namespace {

namespace fs = std::filesystem;

struct Options {
  std::string in, out, form, which = "teacher", dtype;
  int heads = 0;
  bool verify = false;
  bool force = false;
  bool allow_unexpected = false;
  bool json = false;
};

DType dtype_named(const std::string& name) {
  if (name == "fp16") return DType::float16;
  if (name == "bf16") return DType::bfloat16;
  return DType::float32;
}

/// `teacher.*`, `optimizer.*`: the first part of a name, with its number of tensors.
std::string summary_of(const std::vector<std::string>& names) {
  std::map<std::string, int> count;
  for (const std::string& name : names) {
    const std::size_t dot = name.find('.');
    std::string part = dot == std::string::npos ? name : name.substr(0, dot) + ".*";
    // Names come from elsewhere and must not steer the terminal.
    std::replace_if(
        part.begin(), part.end(), [](unsigned char c) { return c < ' ' || c == 0x7f; }, '?');
    ++count[part];
  }
  std::string text;
  for (const auto& [part, tensors] : count) {
    text += fmt::format("{}{}{}", text.empty() ? "" : ", ", part, tensors > 1 ? fmt::format(" ({})", tensors) : "");
  }
  return text;
}

/// A picture that is the same everywhere: gradients and stripes, (1, S, S, 3).
std::vector<std::uint8_t> fixed_picture(int side_px) {
  std::vector<std::uint8_t> rgb;
  for (int y = 0; y < side_px; ++y) {
    for (int x = 0; x < side_px; ++x) {
      rgb.push_back(static_cast<std::uint8_t>(255 * x / side_px));
      rgb.push_back(static_cast<std::uint8_t>(255 * y / side_px));
      rgb.push_back(static_cast<std::uint8_t>((x / 7 + y / 5) % 2 == 0 ? 220 : 40));
    }
  }
  return rgb;
}

std::vector<float> features_of(const WeightsFile& file) {
  const auto context = make_cpu_context();
  const Backbone backbone(*context, file, DType::float32);
  const int side = backbone.vit.config().image_px;
  const std::vector<std::uint8_t> picture = fixed_picture(side);
  CropPacker packer(*context, backbone.vit.config().patch_px);
  Tape tape(*context, Tape::Mode::inference);
  Weights weights = Weights::student(tape, backbone.store);
  const Tensor pixels = context->from_host(ConstArray(picture.data(), Shape{1, side, side, 3}));
  const Tensor cls = backbone.vit.cls_features(tape, weights, packer.pack({{pixels}}));
  std::vector<float> features(static_cast<std::size_t>(cls.size()));
  context->copy_to_host(cls, Array(features.data(), cls.shape()));
  return features;
}

/// Compares weights (exactly) and features (for information: rounding moves them) with what was written.
/// Returns by how much the features differ, relative to their norm.
double verify(const WeightsFile& file, const Options& options, DType dtype) {
  // PyTorch's files have no place for the number of heads.
  const WeightsFile out = read_weights(options.out, {.network = Network::teacher, .heads = file.config().heads});
  require(out.config() == file.config(), "convert", "{} reads back as another network", options.out);
  require_same_weights(file, out, dtype);
  const std::vector<float> before = features_of(file);
  const std::vector<float> after = features_of(out);
  double difference = 0;
  double norm = 0;
  for (std::size_t i = 0; i < before.size(); ++i) {
    difference += std::pow(static_cast<double>(after[i]) - before[i], 2);
    norm += std::pow(static_cast<double>(before[i]), 2);
  }
  const double relative = std::sqrt(difference / norm);
  require(std::isfinite(relative), "convert", "the features of {} are not finite", options.out);
  require(relative == 0 || dtype != natural_dtype(file), "convert", "the features of {} differ by {:.1e}", options.out,
          relative);
  return relative;
}

int convert_command(const Options& options) {
  const WeightsForm form = weights_form(options.form);
  const std::vector<fs::path> paths = export_paths(options.out, form);
  for (const fs::path& path : paths) {
    require(options.force || !fs::exists(path), "convert", "{} exists already; try --force to replace it",
            path.string());
  }
  require(!options.verify || form != WeightsForm::onnx, "convert",
          "--verify cannot run ONNX; try scripts/verify_interop.py");
  if (form != WeightsForm::hugging_face) const AtomicFile trial(options.out);

  const WeightsFile file =
      read_weights(options.in, {.network = options.which == "student" ? Network::student : Network::teacher,
                                .heads = options.heads > 0 ? std::optional(options.heads) : std::nullopt,
                                .allow_unexpected = options.allow_unexpected});
  std::vector<std::string> read;
  for (const fs::path& path : file.files()) read.push_back(path.string());
  for (const fs::path& path : paths) require_not_read("convert", path, read);
  const VitConfig& config = file.config();
  if (!options.json) {
    report("{}: width {}, depth {}, heads {}, patch {} px, image {} px{}", options.in, config.embed_dim, config.depth,
           config.heads, config.patch_px, config.image_px, file.has_head() ? ", with a DINO head" : "");
    if (!file.left_out().empty()) report("left out: {}", summary_of(file.left_out()));
    if (file.has_head() && form != WeightsForm::dino_cuda) report("left out: head (--to dino_cuda keeps it)");
  }

  const DType dtype = options.dtype.empty() ? natural_dtype(file) : dtype_named(options.dtype);
  write_weights(file, options.out, form, dtype);
  if (!options.json) {
    for (const fs::path& path : paths) report("wrote {}: {} bytes", path.string(), fs::file_size(path));
  }
  std::optional<double> difference;
  if (options.verify) difference = verify(file, options, dtype);
  if (options.json) {
    nlohmann::ordered_json json = {{"in", options.in},
                                   {"form", options.form},
                                   {"dtype", name_of(dtype)},
                                   {"width", config.embed_dim},
                                   {"depth", config.depth},
                                   {"heads", config.heads},
                                   {"patch_px", config.patch_px},
                                   {"image_px", config.image_px},
                                   {"head", file.has_head() && form == WeightsForm::dino_cuda},
                                   {"left_out", file.left_out().size()},
                                   {"files", nlohmann::ordered_json::array()}};
    for (const fs::path& path : paths)
      json["files"].push_back({{"path", path.string()}, {"bytes", fs::file_size(path)}});
    if (difference) json["feature_difference"] = *difference;
    print_json(json);
  } else if (difference) {
    const DType stored = file.stored_dtype("backbone.cls_token");
    const bool exact = dtype == DType::float32 && stored != DType::float64;
    report("verified: every tensor as it was{}; CLS features of a fixed picture differ by {:.1e} (relative)",
           exact ? "" : fmt::format(", rounded to {}", name_of(dtype)), *difference);
  }
  return 0;
}

}  // namespace

void add_convert_command(Command app, Run& run) {
  const Command command =
      app.add_subcommand("convert",
                         "Write a trained network for other programs, or theirs for this one. See docs/weights.md.\n\n"
                         "  dino_cuda convert runs/mine/last.safetensors backbone.pth --to official\n"
                         "  dino_cuda convert runs/mine/last.safetensors my-vit --to hf --dtype fp16 --verify\n"
                         "  dino_cuda convert runs/mine/last.safetensors vit.onnx --to onnx\n"
                         "  dino_cuda convert dino-vits16/ dino.safetensors --to timm\n");
  auto options = std::make_shared<Options>();
  command
      .add_option("in", options->in,
                  "weights or checkpoint: .safetensors, .pth, .bin, *.index.json, or a folder of Hugging Face's")
      .required()
      .type_name("IN");
  command.add_option("out", options->out, "NAME.safetensors, NAME.pth, NAME.bin or NAME.onnx; for hf a folder")
      .required()
      .type_name("OUT");
  command.add_option("--to", options->form, "whose form")
      .required()
      .one_of({"official", "timm", "hf", "dino_cuda", "onnx"});
  command.add_option("--which,--network", options->which, "which network of a checkpoint")
      .one_of({"teacher", "student"})
      .capture_default_str();
  command.add_option("--dtype", options->dtype, "element type: fp32, fp16 or bf16 (default: that of IN)")
      .one_of({"fp32", "fp16", "bf16"});
  command.add_option("--heads", options->heads, "attention heads, where IN does not say (default: width / 64)")
      .in_range(1, 4096);
  command.add_flag("--verify", options->verify, "read OUT back and compare its weights and features with IN");
  command.add_flag("--force", options->force, "replace what OUT holds");
  command.add_flag("--allow-unexpected", options->allow_unexpected,
                   "ignore tensors in IN that the network has no place for");
  add_json_option(command, options->json);
  command.callback([options, &run] { run = [options] { return convert_command(*options); }; });
}

}  // namespace dino
