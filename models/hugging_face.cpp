#include "models/hugging_face.h"

#include "engine/files.h"
#include "kernels/common/error.h"
#include "models/json.h"
#include "models/vit.h"

#include <cstdint>
#include <limits>

namespace dino {
namespace {

constexpr const char* kWhere = "weights";
constexpr double kLargestNormEps = 1e-5;  // published DINO models say 1e-12; the difference is below fp32's rounding

}  // namespace

HuggingFaceConfig HuggingFaceConfig::read(const std::filesystem::path& path) {
  constexpr std::uintmax_t kMaxBytes = 1 << 20;
  std::error_code none;
  const std::uintmax_t size = std::filesystem::file_size(path, none);
  require(!none && size <= kMaxBytes, kWhere, "{} is no configuration of a model: it has {} bytes", path.string(),
          none ? 0 : size);
  const nlohmann::json json = parse_json(read_text_file(path, kMostTextBytes));
  require(json.is_object(), kWhere, "{} is no JSON object", path.string());
  const auto number = [&](const char* key) -> std::optional<int> {
    const auto at = json.find(key);
    if (at == json.end() || at->is_null() || at->is_array()) return std::nullopt;
    require(at->is_number_integer() && *at >= 1 && *at <= std::numeric_limits<int>::max(), kWhere,
            "{}: {} is not a size; got {}", path.string(), key, at->dump());
    return at->get<int>();
  };
  const auto expect = [&](const char* key, const nlohmann::json& value) {
    const auto at = json.find(key);
    if (at == json.end() || *at == value) return;
    fail(kWhere, "{}: another kind of network; {} is {}, expected {}", path.string(), key, at->dump(), value.dump());
  };
  expect("model_type", "vit");
  expect("hidden_act", "gelu");
  expect("num_channels", 3);
  const auto eps = json.find("layer_norm_eps");
  if (eps != json.end() && !(eps->is_number() && *eps >= 0.0 && *eps <= kLargestNormEps)) {
    fail(kWhere, "{}: layer_norm_eps is {}; this program computes with {}", path.string(), eps->dump(), Vit::kNormEps);
  }
  return {.hidden_size = number("hidden_size"),
          .num_hidden_layers = number("num_hidden_layers"),
          .num_attention_heads = number("num_attention_heads"),
          .intermediate_size = number("intermediate_size"),
          .patch_size = number("patch_size"),
          .image_size = number("image_size")};
}

void HuggingFaceConfig::require_agrees(const VitConfig& config, const std::filesystem::path& path) const {
  const auto check = [&](const char* key, const std::optional<int>& said, int found) {
    require(!said || *said == found, kWhere, "{} does not belong to the tensors beside it: {} is {}, they have {}",
            path.string(), key, said.value_or(0), found);
  };
  check("hidden_size", hidden_size, config.embed_dim);
  check("num_hidden_layers", num_hidden_layers, config.depth);
  check("num_attention_heads", num_attention_heads, config.heads);
  check("intermediate_size", intermediate_size, config.hidden_dim());
  check("patch_size", patch_size, config.patch_px);
  check("image_size", image_size, config.image_px);
}

std::string hugging_face_config(const VitConfig& config, const std::string& torch_dtype) {
  const nlohmann::ordered_json json = {{"architectures", {"ViTModel"}},
                                       {"model_type", "vit"},
                                       {"hidden_size", config.embed_dim},
                                       {"num_hidden_layers", config.depth},
                                       {"num_attention_heads", config.heads},
                                       {"intermediate_size", config.hidden_dim()},
                                       {"hidden_act", "gelu"},
                                       {"hidden_dropout_prob", 0.0},
                                       {"attention_probs_dropout_prob", 0.0},
                                       {"initializer_range", 0.02},
                                       {"layer_norm_eps", Vit::kNormEps},
                                       {"image_size", config.image_px},
                                       {"patch_size", config.patch_px},
                                       {"num_channels", 3},
                                       {"qkv_bias", config.qkv_bias},
                                       {"torch_dtype", torch_dtype}};
  return json.dump(2) + "\n";
}

std::string hugging_face_preprocessor_config(const VitConfig& config) {
  constexpr int kPillowBicubic = 3;
  // ImageNet's mean and deviation, as in training.
  const nlohmann::ordered_json json = {{"image_processor_type", "ViTImageProcessor"},
                                       {"do_resize", true},
                                       {"size", {{"height", config.image_px}, {"width", config.image_px}}},
                                       {"resample", kPillowBicubic},
                                       {"do_rescale", true},
                                       {"rescale_factor", 1.0 / 255.0},
                                       {"do_normalize", true},
                                       {"image_mean", {0.485, 0.456, 0.406}},
                                       {"image_std", {0.229, 0.224, 0.225}}};
  return json.dump(2) + "\n";
}

}  // namespace dino
