#pragma once

#include "benchmarks/benchmark.h"
#include "kernels/attention/attention.h"
#include "kernels/attention/cls_attention.h"
#include "kernels/dino_loss/dino_loss.h"
#include "kernels/layer_norm/layer_norm.h"

/// cuDNN's way to compute what a kernel does on a GPU: references for a bench that runs there. The functions are weak:
/// they are part of programs that were built where cuDNN's headers are, and need no more than those.
namespace dino::bench::cudnn {

using Call = std::function<void()>;

/// Each makes what is needed once - handle, plans, memory - and gives the calls that compute the same as the kernel
/// with these arguments. They throw Error where cuDNN cannot be loaded or does not do it.
///
/// Attention: scaled dot-product attention of bfloat16 heads, one graph for each length of sequences, which sees the
/// kernel's own arrays by their strides. `logsumexp` and `probabilities` are not written.
[[gnu::weak]] Call attention_forward(Bench& bench, const AttentionForward& args);
[[gnu::weak]] Call attention_backward(Bench& bench, const AttentionBackward& args);
[[gnu::weak]] Call cls_attention_forward(Bench& bench, const ClsAttentionForward& args);
[[gnu::weak]] Call cls_attention_backward(Bench& bench, const ClsAttentionBackward& args);
/// The sum, then the LayerNorm; backward in the other order, and a copy for the branch, whose scales must be 1.
[[gnu::weak]] Call layer_norm_forward(Bench& bench, const LayerNormForward& args);
[[gnu::weak]] Call layer_norm_backward(Bench& bench, const LayerNormBackward& args);
/// Of the loss only its gradient: logits in fp32 divided by the temperatures, the softmax of each row, and the
/// differences of all pairs of views.
[[gnu::weak]] Call dino_loss_gradient(Bench& bench, const DinoLossWithGradient& args);

/// Where the bench is on a GPU, adds the reference that `make` makes and that writes `outputs`, or why there is none.
template <typename Args>
void add(Bench& bench, Prepared& prepared, std::string name, Call (*make)(Bench&, const Args&), const Args& args,
         std::vector<Array> outputs) {
  if (bench.on_cpu() || !bench.compares()) return;
  if (make == nullptr) {
    prepared.left_out.push_back({std::move(name), "[bench] this program was built without cuDNN's headers"});
    return;
  }
  try {
    Call call = make(bench, args);
    prepared.references.push_back({std::move(name), std::move(call), std::move(outputs)});
  } catch (const Error& error) {
    prepared.left_out.push_back({std::move(name), error.what()});
  }
}

}  // namespace dino::bench::cudnn
