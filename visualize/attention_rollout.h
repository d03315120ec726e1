#pragma once

#include "visualize/attention.h"

#include <span>
#include <vector>

namespace dino {

/// One layer's queries, keys and values of a sequence of N tokens, on the host: (N, 3C) fp32, columns as
/// AttentionForward's.
using HostQkv = std::vector<float>;

/// Attention rollout of the CLS token (Abnar and Zuidema, arXiv 2005.00928): the CLS row of Ã_L · … · Ã_1 with
/// Ã = (I + mean over heads of softmax(q kᵀ / √D)) / 2, one layer's qkv each, the first layer first. (N), sums to 1.
/// Every product is a row times a matrix, so no (N, N) matrix is kept. Work: 2·N²·C flops a layer on the context's
/// device, and N²·H exponentials on the host.
std::vector<double> rollout_from_cls(Context& context, std::span<const HostQkv> layers, std::int64_t tokens, int heads);

/// Rollout of one prepared picture through all layers: an AttentionMaps with no heads whose `mean` is the rollout to
/// the patches, CLS left out. Of the options only `threshold` is used.
AttentionMaps compute_rollout(const Vit& vit, Weights& weights, const Image& prepared,
                              const AttentionOptions& options = {});

}  // namespace dino
