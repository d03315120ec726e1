#pragma once

#include "engine/communicator.h"
#include "engine/parameters.h"

#include <optional>
#include <string>
#include <vector>

namespace dino {

/// DINO's projection head (official vision_transformer.py, DINOHead).
struct DinoHeadConfig {
  int in_dim = 384;
  int out_dim = 65536;  // K prototypes
  int layers = 3;
  int hidden_dim = 2048;
  int bottleneck_dim = 256;
  bool use_bn = false;
  bool norm_last_layer = true;  // weight_g stays 1

  /// Throws Error unless the sizes make a network.
  void check() const;
  bool operator==(const DinoHeadConfig&) const = default;
};

/// Linear (batch norm) GELU, …, Linear to the bottleneck, L2 normalisation, weight-normed linear layer without bias.
/// Like Vit it holds places of parameters only.
///
/// Batch norm always uses the statistics of the batch, over all ranks: the official code never puts student or teacher
/// heads into evaluation mode, so that its running averages are written but never read. They are not kept here.
class DinoHead {
 public:
  static constexpr double kBatchNormEps = 1e-5;

  /// Registers the parameters under their official names behind `prefix`: `mlp.N.*` as numbered by nn.Sequential, then
  /// `last_layer.weight_g`, `last_layer.weight_v`.
  DinoHead(ParameterLayout& layout, const DinoHeadConfig& config, const std::string& prefix = "head.");

  const DinoHeadConfig& config() const { return config_; }

  /// Logits (S, K) of features x (S, C), both in the compute type. The weights of the last layer are normalised in
  /// fp32. `communicator` joins the batch statistics of all ranks and is used with batch norm only.
  Tensor operator()(Tape& tape, Weights& weights, const Tensor& x, Communicator& communicator) const;
  /// The same on a single rank.
  Tensor operator()(Tape& tape, Weights& weights, const Tensor& x) const;

 private:
  struct Layer {
    ParameterId weight, bias;
    std::optional<ParameterId> bn_weight, bn_bias;
  };
  static std::vector<Layer> add_layers(ParameterLayout& layout, const std::string& prefix,
                                       const DinoHeadConfig& config);

  // Registered in this order.
  DinoHeadConfig config_;
  std::vector<Layer> layers_;
  ParameterId weight_g_, weight_v_;
};

}  // namespace dino
