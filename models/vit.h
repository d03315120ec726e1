#pragma once

#include "engine/ops/attention.h"
#include "engine/parameters.h"
#include "models/packing.h"
#include "models/vit_config.h"

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace dino {

/// Pre-norm blocks over CLS and patch tokens of crops of any sizes in one pass. Holds the places of its parameters, not
/// their values: student and teacher are the same Vit with other Weights.
class Vit {
 public:
  static constexpr double kNormEps = 1e-6;

  /// Registers the parameters under their official names behind `prefix`, in the official order.
  Vit(ParameterLayout& layout, const VitConfig& config, const std::string& prefix = "backbone.");

  const VitConfig& config() const { return config_; }

  /// CLS tokens after the final norm: (S, C) in the compute type. The last block computes its queries, projection and
  /// MLP for CLS rows only, so patch tokens there cost keys and values and no more. `drop_path` is (2·depth, S) fp32,
  /// one factor per branch and sequence in the order attention, MLP (see draw_drop_path), or empty.
  Tensor cls_features(Tape& tape, Weights& weights, const PackedCrops& crops, const Tensor& drop_path = {}) const;

  /// All tokens after each of the last `blocks` blocks, each through the final norm: (T, C), the last block last.
  std::vector<Tensor> last_tokens(Tape& tape, Weights& weights, const PackedCrops& crops, int blocks = 1) const;

  /// The CLS rows of last_tokens(): (S, C), the last block last; computed at the cost of cls_features().
  std::vector<Tensor> last_cls(Tape& tape, Weights& weights, const PackedCrops& crops, int blocks = 1) const;

  /// Queries, keys and values of all tokens in each block: (T, 3C), columns as AttentionForward's, the first block
  /// first. For looking at all of the attention; not differentiable.
  std::vector<Tensor> block_qkv(Tape& tape, Weights& weights, const PackedCrops& crops) const;

  /// Attention of each CLS token to the tokens of its sequence (CLS itself included) in block `layer`, negative from
  /// the end: (H, T) fp32. No N×N matrix is made.
  Tensor cls_attention(Tape& tape, Weights& weights, const PackedCrops& crops, int layer = -1) const;

 private:
  struct Norm {
    ParameterId weight, bias;
  };
  struct Linear {
    ParameterId weight;
    std::optional<ParameterId> bias;
  };
  struct Block {
    Norm norm1;
    Linear qkv, proj;
    Norm norm2;
    Linear fc1, fc2;
  };
  /// The residual stream between blocks, and what the next block (or the final norm) reads.
  struct State {
    Tensor x;           // (T, C)
    Tensor normalized;  // (T, C)
  };
  enum class Rows { all, cls };

  static Norm add_norm(ParameterLayout& layout, const std::string& name, std::int64_t width);
  static Linear add_linear(ParameterLayout& layout, const std::string& name, std::int64_t out, std::int64_t in,
                           bool bias = true);
  static Linear add_patch_embed(ParameterLayout& layout, const std::string& name, const VitConfig& config);
  static std::vector<Block> add_blocks(ParameterLayout& layout, const std::string& prefix, const VitConfig& config);

  State embed(Tape& tape, Weights& weights, const PackedCrops& crops) const;
  ClsAttention attend_from_cls(Tape& tape, Weights& weights, const PackedCrops& crops, const Block& block,
                               const Tensor& normalized) const;
  /// Block `i` and the norm that follows it. With Rows::cls the result has S rows.
  State run_block(Tape& tape, Weights& weights, const PackedCrops& crops, std::size_t i, Rows rows, const State& in,
                  const Tensor& drop_path) const;
  const Norm& norm_before(std::size_t block) const { return block < blocks_.size() ? blocks_[block].norm1 : norm_; }
  std::vector<Tensor> last_outputs(Tape& tape, Weights& weights, const PackedCrops& crops, int blocks, Rows rows) const;

  // Registered in this order.
  VitConfig config_;
  ParameterId cls_token_, pos_embed_;
  Linear patch_embed_;
  std::vector<Block> blocks_;
  Norm norm_;
};

/// Factors for Vit::cls_features: each branch of block i of each sequence is dropped with probability
/// rate·i / (depth - 1), else scaled by 1 / keep. Sequence v·B + b is view v of the image `samples[b]`; the draw
/// depends on seed, step, sample and view only. `scales` is (2·depth, views·B).
void draw_drop_path(const VitConfig& config, std::uint64_t seed, std::uint64_t step,
                    std::span<const std::uint64_t> samples, int views, std::span<float> scales);

}  // namespace dino
