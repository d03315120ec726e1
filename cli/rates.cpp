#include "cli/rates.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <array>

namespace dino {
namespace {

/// The folders of kernels whose operations are not named after them.
constexpr std::array<std::pair<std::string_view, std::string_view>, 8> kFolders = {
    {{"cls_attention", "attention"},
     {"patchify", "patch_embed"},
     {"assemble_tokens", "patch_embed"},
     {"resize_pos_embed", "pos_embed"},
     {"center_update", "dino_loss"},
     {"gradient_norms", "optimizer_step"},
     {"nearest_neighbors", "knn"},
     {"knn_vote", "knn"}}};

std::string_view folder_prefix(std::string_view operation) {
  for (const auto& [prefix, folder] : kFolders) {
    if (operation.starts_with(prefix)) return folder;
  }
  return operation;
}

}  // namespace

ReportedSpeeds::ReportedSpeeds(const std::string& json_text) {
  const auto json = nlohmann::json::parse(json_text, nullptr, false);
  try {
    machine_ = json.at("machine").get<std::string>();
    device_ = json.at("device").get<std::string>();
    const auto& roofline = json.at("roofline");
    bytes_per_s_ = 1e9 * roofline.at("copy_gb_per_s").get<double>();
    fp32_flops_per_s_ = 1e9 * roofline.at("fp32_gflop_per_s").get<double>();
    bf16_flops_per_s_ = 1e9 * roofline.at("bf16_gflop_per_s").get<double>();
    for (const auto& row : json.at("results")) {
      if (!row.contains("roofline_share")) continue;
      Share& share = shares_[{row.at("operation").get<std::string>(), row.at("type").get<std::string>()}];
      const double ms = row.at("median_ms").get<double>();
      share.ms += ms;
      share.least_ms += ms * row.at("roofline_share").get<double>();
    }
  } catch (const nlohmann::json::exception& error) {
    fail("plan", "this is no report of bench: {}; try dino_cuda bench --json FILE", error.what());
  }
  require(bytes_per_s_ > 0 && fp32_flops_per_s_ > 0 && bf16_flops_per_s_ > 0, "plan",
          "the report's rates must be positive; try dino_cuda bench --json FILE");
}

double ReportedSpeeds::ms_of(const CountedOperation& operation) const {
  const OperationCost& cost = operation.cost;
  const bool bf16 = cost.type == DType::bfloat16;
  const double least =
      1e3 * std::max(cost.flops / (bf16 ? bf16_flops_per_s_ : fp32_flops_per_s_), cost.bytes / bytes_per_s_);
  const std::string_view name = folder_prefix(operation.name);
  for (const std::string type : {bf16 ? "bf16" : "fp32", "fp32"}) {
    for (const auto& [key, share] : shares_) {
      if (key.second == type && name.starts_with(key.first) && share.least_ms > 0) {
        return least * share.ms / share.least_ms;
      }
    }
  }
  return least;
}

}  // namespace dino
