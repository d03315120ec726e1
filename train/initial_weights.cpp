#include "train/initial_weights.h"

#include "engine/ops/pos_embed.h"
#include "models/weights_file.h"

namespace dino {
namespace {

constexpr const char* kWhere = "train";
constexpr std::string_view kPositions = "backbone.pos_embed";

std::string sizes(const VitConfig& c) {
  return fmt::format("width {}, depth {}, heads {}, patch {}, MLP {}", c.embed_dim, c.depth, c.heads, c.patch_px,
                     c.hidden_dim());
}

void require_same_network(const WeightsFile& file, const VitConfig& wanted) {
  require(sizes(file.config()) == sizes(wanted), kWhere,
          "init = {} is another network; got {}, expected {}; try the arch, patch_size, embed_dim, depth and num_heads "
          "of the file",
          file.path().string(), sizes(file.config()), sizes(wanted));
  ParameterLayout layout;
  const Vit vit(layout, file.config());
  file.require_fit(layout, "backbone.");
}

void require_head_fits(const WeightsFile& file, const ParameterLayout& layout) {
  try {
    file.require_fit(layout, "head.");
  } catch (const WeightsMismatch& error) {
    throw WeightsMismatch(
        fmt::format("{}; try out_dim and the head_ keys of the file, or its backbone alone (dino_cuda convert … --to "
                    "official)",
                    std::string_view(error.what()).substr(std::string_view("[weights] ").size())),
        error.tensors());
  }
}

/// The tensor as the network takes it: positions on its own grid.
std::vector<float> values_for(const WeightsFile& file, const ParameterInfo& info, Context& context, int grid) {
  std::vector<float> values = file.read(info.name);
  if (info.name != kPositions || file.config().grid() == grid) return values;
  Tape tape(context, Tape::Mode::inference);
  const Tensor resized =
      resize_pos_embed(tape, context.from_host(ConstArray(values.data(), file.shape(info.name))), grid, grid);
  values.resize(static_cast<std::size_t>(resized.size()));
  context.copy_to_host(resized, Array(values.data(), resized.shape()));
  return values;
}

std::vector<std::string> advice(const TrainConfig& config, bool has_head) {
  constexpr double kHighLr = 1e-4;
  constexpr double kLowMomentum = 0.999;
  std::vector<std::string> lines;
  if (!has_head && (config.freeze_last_layer < 1 || config.warmup_epochs < 1)) {
    lines.push_back(
        fmt::format("init: the head is random: with freeze_last_layer = {} and warmup_epochs = {} its first steps may "
                    "undo what the "
                    "backbone has learned; try at least 1 of each",
                    config.freeze_last_layer, config.warmup_epochs));
  }
  if (config.lr > kHighLr) {
    lines.push_back(fmt::format("init: lr = {} is meant for random weights; try a tenth of it, or less", config.lr));
  }
  if (config.momentum_teacher < kLowMomentum) {
    lines.push_back(fmt::format(
        "init: with momentum_teacher = {} the teacher follows a student that has yet to settle; try 0.9995 or more",
        config.momentum_teacher));
  }
  return lines;
}

}  // namespace

std::vector<std::string> load_initial_weights(StudentTeacher& networks, const TrainConfig& config) {
  const VitConfig& wanted = networks.vit().config();
  const WeightsFile file = read_weights(config.init, {.default_heads = wanted.heads});
  require_same_network(file, wanted);
  if (file.has_head()) require_head_fits(file, networks.layout());

  ParameterStore& store = networks.store();
  for (const ParameterId id : store.layout.ids()) {
    const ParameterInfo& info = store.layout[id];
    if (!file.has_head() && !info.name.starts_with("backbone.")) continue;
    const std::vector<float> values = values_for(file, info, store.context, wanted.grid());
    for (const Tensor* flat : {&store.student, &store.teacher}) {
      Tensor window = store.window(*flat, id);
      store.context.copy_from_host(ConstArray(values.data(), info.shape), window);
    }
  }
  store.refresh_working_copies();

  std::vector<std::string> lines = {fmt::format(
      "init: backbone{} from {}{}{}", file.has_head() ? " and head" : "", config.init,
      file.has_head() ? "" : "; the head starts at random",
      file.config().grid() == wanted.grid()
          ? ""
          : fmt::format("; position embedding resized from {} to {} pixels", file.config().image_px, wanted.image_px))};
  const std::vector<std::string> more = advice(config, file.has_head());
  lines.insert(lines.end(), more.begin(), more.end());
  return lines;
}

}  // namespace dino
