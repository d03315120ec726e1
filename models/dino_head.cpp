#include "models/dino_head.h"

#include "engine/ops/batch_norm.h"
#include "engine/ops/gelu.h"
#include "engine/ops/l2_normalize.h"
#include "engine/ops/linear.h"
#include "engine/ops/weight_norm.h"

#include <cmath>

namespace dino {

void DinoHeadConfig::check() const {
  require(in_dim >= 1 && out_dim >= 1 && hidden_dim >= 1 && bottleneck_dim >= 1, "head",
          "sizes must be at least 1; got in {}, out {}, hidden {}, bottleneck {}", in_dim, out_dim, hidden_dim,
          bottleneck_dim);
  require(layers >= 1, "head", "the head has at least 1 layer; got {}", layers);
}

DinoHead::DinoHead(ParameterLayout& layout, const DinoHeadConfig& config, const std::string& prefix)
    : config_((config.check(), config)),
      layers_(add_layers(layout, prefix + "mlp", config)),
      weight_g_(layout.add(prefix + "last_layer.weight_g", {config.out_dim, 1}, {Initializer::Kind::ones, 0},
                           /*gemm_weight=*/false, /*trainable=*/!config.norm_last_layer)),
      // PyTorch's default for a linear layer: the official code initialises the other layers only.
      weight_v_(layout.add(prefix + "last_layer.weight_v", {config.out_dim, config.bottleneck_dim},
                           {Initializer::Kind::uniform, 1.0 / std::sqrt(config.bottleneck_dim)})) {}

std::vector<DinoHead::Layer> DinoHead::add_layers(ParameterLayout& layout, const std::string& prefix,
                                                  const DinoHeadConfig& config) {
  constexpr Initializer kZeros{Initializer::Kind::zeros, 0};
  std::vector<Layer> layers;
  int position = 0;  // in nn.Sequential, where batch norm and GELU take a number each
  for (int i = 0; i < config.layers; ++i) {
    const bool last = i + 1 == config.layers;
    const std::int64_t in = i == 0 ? config.in_dim : config.hidden_dim;
    const std::int64_t out = last ? config.bottleneck_dim : config.hidden_dim;
    // A single layer is a bare nn.Linear.
    const std::string name = config.layers == 1 ? prefix : prefix + "." + std::to_string(position);
    const ParameterId weight =
        layout.add(name + ".weight", {out, in}, {Initializer::Kind::truncated_normal, 0.02}, /*gemm_weight=*/true);
    Layer layer{weight, layout.add(name + ".bias", {out}, kZeros), std::nullopt, std::nullopt};
    if (config.use_bn && !last) {
      const std::string bn = prefix + "." + std::to_string(++position);
      layer.bn_weight = layout.add(bn + ".weight", {out}, {Initializer::Kind::ones, 0});
      layer.bn_bias = layout.add(bn + ".bias", {out}, kZeros);
    }
    layers.push_back(layer);
    position += 2;
  }
  return layers;
}

Tensor DinoHead::operator()(Tape& tape, Weights& weights, const Tensor& x) const {
  // The tape may call the communicator again in backward, after this function has returned.
  static SingleProcess single;
  return (*this)(tape, weights, x, single);
}

Tensor DinoHead::operator()(Tape& tape, Weights& weights, const Tensor& x, Communicator& communicator) const {
  Tensor y = x;
  for (std::size_t i = 0; i < layers_.size(); ++i) {
    const Layer& layer = layers_[i];
    const Tensor weight = weights(layer.weight);
    const Tensor bias = weights(layer.bias);
    if (i + 1 == layers_.size()) {
      y = linear(tape, y, weight, bias);
    } else if (layer.bn_weight) {
      y = linear(tape, y, weight, bias);
      y = batch_norm(tape, y, weights(*layer.bn_weight), weights(*layer.bn_bias), kBatchNormEps, communicator);
      y = gelu(tape, y);
    } else {
      y = linear_gelu(tape, y, weight, bias);
    }
  }
  y = l2_normalize(tape, y);
  const Tensor prototypes = weight_norm(tape, weights(weight_v_), weights(weight_g_), weights.compute_type());
  return linear(tape, y, prototypes);
}

}  // namespace dino
