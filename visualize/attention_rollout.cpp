#include "visualize/attention_rollout.h"

#include "kernels/matmul/matmul.h"

#include <algorithm>
#include <cmath>

namespace dino {
namespace {

constexpr std::int64_t kQueriesAtATime = 256;

/// (N, D) of head `head` from (N, 3C); part 0: queries, 1: keys.
std::vector<float> part_of(const HostQkv& qkv, std::int64_t tokens, int heads, int head, int part) {
  const std::int64_t row = static_cast<std::int64_t>(qkv.size()) / tokens, d = row / 3 / heads;
  std::vector<float> result;
  result.reserve(static_cast<std::size_t>(tokens * d));
  for (std::int64_t n = 0; n < tokens; ++n) {
    const auto first = qkv.begin() + n * row + part * row / 3 + head * d;
    result.insert(result.end(), first, first + d);
  }
  return result;
}

/// sum += Σ_q weights[q] · softmax(scores[q]), each row of N scores.
void add_softmax_rows(std::span<const float> scores, std::span<const double> weights, double scale,
                      std::vector<double>& sum) {
  const std::size_t n = sum.size();
  std::vector<double> row(n);
  for (std::size_t q = 0; q < weights.size(); ++q) {
    if (weights[q] == 0) continue;
    const auto of_query = scores.subspan(q * n, n);
    const double largest = static_cast<double>(*std::max_element(of_query.begin(), of_query.end()));
    double total = 0;
    for (std::size_t i = 0; i < n; ++i)
      total += row[i] = std::exp(scale * (static_cast<double>(of_query[i]) - largest));
    for (std::size_t i = 0; i < n; ++i) sum[i] += weights[q] * row[i] / total;
  }
}

}  // namespace

std::vector<double> rollout_from_cls(Context& context, std::span<const HostQkv> layers, std::int64_t tokens,
                                     int heads) {
  require(!layers.empty() && tokens >= 1 && heads >= 1, "rollout", "got {} layers, {} tokens and {} heads",
          layers.size(), tokens, heads);
  std::vector<double> row(static_cast<std::size_t>(tokens), 0.0);
  row[0] = 1;
  for (std::size_t layer = layers.size(); layer-- > 0;) {
    const HostQkv& qkv = layers[layer];
    require(static_cast<std::int64_t>(qkv.size()) % (3 * tokens * heads) == 0 && !qkv.empty(), "rollout",
            "got {} numbers for {} tokens and {} heads", qkv.size(), tokens, heads);
    const std::int64_t d = static_cast<std::int64_t>(qkv.size()) / (3 * tokens * heads);
    std::vector<double> attended(row.size(), 0.0);
    for (int head = 0; head < heads; ++head) {
      const std::vector<float> q = part_of(qkv, tokens, heads, head, 0), k = part_of(qkv, tokens, heads, head, 1);
      const Tensor keys = context.from_host(ConstArray(k.data(), Shape{tokens, d}));
      for (std::int64_t begin = 0; begin < tokens; begin += kQueriesAtATime) {
        const std::int64_t count = std::min(kQueriesAtATime, tokens - begin);
        const auto weights = std::span(row).subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(count));
        // In the last layer only CLS asks.
        if (std::all_of(weights.begin(), weights.end(), [](double w) { return w == 0; })) continue;
        const Tensor queries = context.from_host(ConstArray(q.data() + begin * d, Shape{count, d}));
        const Tensor scores = context.empty({count, tokens}, DType::float32);
        matmul({.a = queries.array(), .b = keys.array(), .y = scores.array(), .transpose_b = true}, context.stream());
        std::vector<float> host(static_cast<std::size_t>(scores.size()));
        context.copy_to_host(scores, Array(host.data(), scores.shape()));
        add_softmax_rows(host, weights, 1 / std::sqrt(static_cast<double>(d)), attended);
      }
    }
    for (std::size_t i = 0; i < row.size(); ++i) row[i] = 0.5 * row[i] + 0.5 * attended[i] / heads;
  }
  return row;
}

AttentionMaps compute_rollout(const Vit& vit, Weights& weights, const Image& prepared,
                              const AttentionOptions& options) {
  Context& context = weights.tape().context();
  CropPacker packer(context, vit.config().patch_px);
  const PackedCrops crops =
      packer.pack({{context.from_host(prepared.array().reshaped({1, prepared.height, prepared.width, 3}))}});
  std::vector<HostQkv> layers;
  for (const Tensor& qkv : vit.block_qkv(weights.tape(), weights, crops)) {
    require(qkv.dtype() == DType::float32, "rollout", "got {} tokens, expected float32", name_of(qkv.dtype()));
    layers.emplace_back(static_cast<std::size_t>(qkv.size()));
    context.copy_to_host(qkv, Array(layers.back().data(), qkv.shape()));
  }
  AttentionMaps maps;
  maps.rows = crops.plan->groups[0].rows;
  maps.columns = crops.plan->groups[0].columns;
  maps.patch_px = vit.config().patch_px;
  const std::vector<double> row =
      rollout_from_cls(context, layers, 1 + static_cast<std::int64_t>(maps.patches()), vit.config().heads);
  maps.mean.assign(row.begin() + 1, row.end());
  if (options.threshold > 0) maps.mean_mask = threshold_mask(maps.mean, options.threshold);
  return maps;
}

}  // namespace dino
