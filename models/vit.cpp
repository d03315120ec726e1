#include "models/vit.h"

#include "engine/ops/gather_rows.h"
#include "engine/ops/layer_norm.h"
#include "engine/ops/linear.h"
#include "engine/ops/pos_embed.h"
#include "engine/random.h"

#include <algorithm>
#include <cmath>

namespace dino {
namespace {

constexpr Initializer kZeros{Initializer::Kind::zeros, 0};
constexpr Initializer kOnes{Initializer::Kind::ones, 0};
constexpr Initializer kNormal{Initializer::Kind::truncated_normal, 0.02};

/// Factors of one branch: row `branch` of (2·depth, S), as (S); empty when there are none.
Tensor branch_scale(const Tensor& drop_path, std::size_t branch) {
  if (!drop_path) return {};
  const auto row = static_cast<std::int64_t>(branch);
  return drop_path.rows(row, row + 1).reshape({drop_path.extent(1)});
}

}  // namespace

Vit::Vit(ParameterLayout& layout, const VitConfig& config, const std::string& prefix)
    : config_((config.check(), config)),
      cls_token_(layout.add(prefix + "cls_token", {1, 1, config.embed_dim}, kNormal)),
      pos_embed_(layout.add(prefix + "pos_embed",
                            {1, 1 + std::int64_t{config.grid()} * config.grid(), config.embed_dim}, kNormal)),
      patch_embed_(add_patch_embed(layout, prefix + "patch_embed.proj", config)),
      blocks_(add_blocks(layout, prefix + "blocks.", config)),
      norm_(add_norm(layout, prefix + "norm", config.embed_dim)) {}

Vit::Norm Vit::add_norm(ParameterLayout& layout, const std::string& name, std::int64_t width) {
  const ParameterId weight = layout.add(name + ".weight", {width}, kOnes);
  return {weight, layout.add(name + ".bias", {width}, kZeros)};
}

Vit::Linear Vit::add_linear(ParameterLayout& layout, const std::string& name, std::int64_t out, std::int64_t in,
                            bool bias) {
  const ParameterId weight = layout.add(name + ".weight", {out, in}, kNormal, /*gemm_weight=*/true);
  if (!bias) return {weight, std::nullopt};
  return {weight, layout.add(name + ".bias", {out}, kZeros)};
}

Vit::Linear Vit::add_patch_embed(ParameterLayout& layout, const std::string& name, const VitConfig& config) {
  // PyTorch's default for a convolution.
  const Initializer uniform{Initializer::Kind::uniform, 1.0 / std::sqrt(3.0 * config.patch_px * config.patch_px)};
  const ParameterId weight = layout.add(name + ".weight", {config.embed_dim, 3, config.patch_px, config.patch_px},
                                        uniform, /*gemm_weight=*/true);
  return {weight, layout.add(name + ".bias", {config.embed_dim}, uniform)};
}

std::vector<Vit::Block> Vit::add_blocks(ParameterLayout& layout, const std::string& prefix, const VitConfig& config) {
  const std::int64_t c = config.embed_dim;
  std::vector<Block> blocks;
  for (int i = 0; i < config.depth; ++i) {
    const std::string block = prefix + std::to_string(i) + ".";
    // Braces evaluate from left to right: the official order.
    blocks.push_back(Block{add_norm(layout, block + "norm1", c),
                           add_linear(layout, block + "attn.qkv", 3 * c, c, config.qkv_bias),
                           add_linear(layout, block + "attn.proj", c, c), add_norm(layout, block + "norm2", c),
                           add_linear(layout, block + "mlp.fc1", config.hidden_dim(), c),
                           add_linear(layout, block + "mlp.fc2", c, config.hidden_dim())});
  }
  return blocks;
}

Vit::State Vit::embed(Tape& tape, Weights& weights, const PackedCrops& crops) const {
  const PackingPlan& plan = *crops.plan;
  const std::int64_t patch_values = 3LL * config_.patch_px * config_.patch_px;
  Tensor patches = tape.context().empty({plan.patches, patch_values}, weights.compute_type());
  std::vector<TokenGroup> groups;
  const Tensor positions =
      weights(pos_embed_).reshape({1 + std::int64_t{config_.grid()} * config_.grid(), config_.embed_dim});
  for (std::size_t g = 0; g < plan.groups.size(); ++g) {
    const PackingPlan::Group& group = plan.groups[g];
    patchify(tape, crops.pixels[g], config_.patch_px, crops.normalization, patches, group.first_patch);
    groups.push_back({group.count, resize_pos_embed(tape, positions, group.rows, group.columns)});
  }
  const Tensor kernel = weights(patch_embed_.weight).reshape({config_.embed_dim, patch_values});
  const Tensor embedded = linear(tape, patches, kernel, weights(*patch_embed_.bias));
  patches = {};  // lives on in the tape only if it records
  State state;
  state.x = assemble_tokens(tape, embedded, weights(cls_token_), groups);
  const Norm& norm = norm_before(0);
  state.normalized = layer_norm(tape, state.x, weights(norm.weight), weights(norm.bias), kNormEps);
  return state;
}

ClsAttention Vit::attend_from_cls(Tape& tape, Weights& weights, const PackedCrops& crops, const Block& block,
                                  const Tensor& normalized) const {
  // Queries for CLS rows only, keys and values for all: the rows of the weight are used apart.
  const Sequences& sequences = crops.plan->sequences;
  const std::int64_t c = config_.embed_dim;
  const auto apply_rows = [&](const Tensor& x, std::int64_t begin, std::int64_t end) {
    const Tensor bias = block.qkv.bias ? weights.rows(*block.qkv.bias, begin, end) : Tensor();
    return linear(tape, x, weights.rows(block.qkv.weight, begin, end), bias);
  };
  const Tensor kv = apply_rows(normalized, c, 3 * c);
  const Tensor q = apply_rows(gather_rows(tape, normalized, sequences.first_rows), 0, c);
  return dino::cls_attention(tape, q, kv, sequences, config_.heads);
}

Vit::State Vit::run_block(Tape& tape, Weights& weights, const PackedCrops& crops, std::size_t i, Rows rows,
                          const State& in, const Tensor& drop_path) const {
  const Block& block = blocks_[i];
  const PackingPlan& plan = *crops.plan;
  const auto apply = [&](const Linear& layer, const Tensor& x) {
    return linear(tape, x, weights(layer.weight), layer.bias ? weights(*layer.bias) : Tensor());
  };

  Tensor x = in.x;
  Tensor branch;
  if (rows == Rows::all) {
    branch = attention(tape, apply(block.qkv, in.normalized), plan.sequences, config_.heads);
  } else {
    // The residual stream goes on with CLS alone.
    branch = attend_from_cls(tape, weights, crops, block, in.normalized).output;
    x = gather_rows(tape, x, plan.sequences.first_rows);
  }
  const Sequences& sequences = rows == Rows::all ? plan.sequences : plan.cls_sequences;
  branch = apply(block.proj, branch);
  const auto [sum, normalized] = add_layer_norm(tape, x, branch, branch_scale(drop_path, 2 * i), sequences,
                                                weights(block.norm2.weight), weights(block.norm2.bias), kNormEps);
  branch = linear_gelu(tape, normalized, weights(block.fc1.weight), weights(*block.fc1.bias));
  branch = apply(block.fc2, branch);
  const Norm& next = norm_before(i + 1);
  AddLayerNorm out = add_layer_norm(tape, sum, branch, branch_scale(drop_path, 2 * i + 1), sequences,
                                    weights(next.weight), weights(next.bias), kNormEps);
  return {std::move(out.sum), std::move(out.normalized)};
}

Tensor Vit::cls_features(Tape& tape, Weights& weights, const PackedCrops& crops, const Tensor& drop_path) const {
  if (drop_path) {
    require_array(drop_path.const_array(), DType::float32, {2LL * config_.depth, crops.count()}, "vit", "drop_path");
  }
  State state = embed(tape, weights, crops);
  for (std::size_t i = 0; i < blocks_.size(); ++i) {
    const Rows rows = i + 1 == blocks_.size() ? Rows::cls : Rows::all;
    state = run_block(tape, weights, crops, i, rows, state, drop_path);
  }
  return state.normalized;
}

std::vector<Tensor> Vit::last_outputs(Tape& tape, Weights& weights, const PackedCrops& crops, int blocks,
                                      Rows rows) const {
  require(blocks >= 1 && blocks <= config_.depth, "vit", "the last {} blocks were asked for; the network has {}",
          blocks, config_.depth);
  std::vector<Tensor> outputs;
  State state = embed(tape, weights, crops);
  for (std::size_t i = 0; i < blocks_.size(); ++i) {
    const bool last = i + 1 == blocks_.size();
    state = run_block(tape, weights, crops, i, last ? rows : Rows::all, state, {});
    if (last) {
      outputs.push_back(state.normalized);
    } else if (i + static_cast<std::size_t>(blocks) >= blocks_.size()) {
      const Tensor x = rows == Rows::all ? state.x : gather_rows(tape, state.x, crops.plan->sequences.first_rows);
      outputs.push_back(layer_norm(tape, x, weights(norm_.weight), weights(norm_.bias), kNormEps));
    }
  }
  return outputs;
}

std::vector<Tensor> Vit::last_tokens(Tape& tape, Weights& weights, const PackedCrops& crops, int blocks) const {
  return last_outputs(tape, weights, crops, blocks, Rows::all);
}

std::vector<Tensor> Vit::last_cls(Tape& tape, Weights& weights, const PackedCrops& crops, int blocks) const {
  return last_outputs(tape, weights, crops, blocks, Rows::cls);
}

std::vector<Tensor> Vit::block_qkv(Tape& tape, Weights& weights, const PackedCrops& crops) const {
  std::vector<Tensor> outputs;
  State state = embed(tape, weights, crops);
  for (std::size_t i = 0; i < blocks_.size(); ++i) {
    const Linear& qkv = blocks_[i].qkv;
    outputs.push_back(
        linear(tape, state.normalized, weights(qkv.weight), qkv.bias ? weights(*qkv.bias) : Tensor()).detach());
    if (i + 1 < blocks_.size()) state = run_block(tape, weights, crops, i, Rows::all, state, {});
  }
  return outputs;
}

Tensor Vit::cls_attention(Tape& tape, Weights& weights, const PackedCrops& crops, int layer) const {
  const int at = layer < 0 ? config_.depth + layer : layer;
  require(at >= 0 && at < config_.depth, "vit", "there is no block {}; expected 0 to {}", layer, config_.depth - 1);
  State state = embed(tape, weights, crops);
  for (int i = 0; i < at; ++i)
    state = run_block(tape, weights, crops, static_cast<std::size_t>(i), Rows::all, state, {});
  return attend_from_cls(tape, weights, crops, blocks_[static_cast<std::size_t>(at)], state.normalized).probabilities;
}

void draw_drop_path(const VitConfig& config, std::uint64_t seed, std::uint64_t step,
                    std::span<const std::uint64_t> samples, int views, std::span<float> scales) {
  const std::size_t sequences = samples.size() * static_cast<std::size_t>(views);
  const auto depth = static_cast<std::size_t>(config.depth);
  require(scales.size() == 2 * depth * sequences, "drop_path", "got room for {} factors, expected {}", scales.size(),
          2 * depth * sequences);
  for (std::size_t s = 0; s < sequences; ++s) {
    Random random(seed, RandomStream::drop_path, step, samples[s % samples.size()],
                  static_cast<std::uint32_t>(s / samples.size()));
    for (std::size_t branch = 0; branch < 2 * depth; ++branch) {
      const double rate =
          depth > 1 ? config.drop_path_rate * static_cast<double>(branch / 2) / static_cast<double>(depth - 1) : 0.0;
      const bool dropped = random.chance(rate);
      scales[branch * sequences + s] = dropped ? 0.0F : static_cast<float>(1.0 / (1.0 - rate));
    }
  }
}

}  // namespace dino
