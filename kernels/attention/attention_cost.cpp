#include "kernels/attention/attention.h"
#include "kernels/attention/cls_attention.h"

#include "kernels/common/operation_cost.h"

#include <vector>

namespace dino {

using namespace cost;

namespace {

/// The sum of the squares of the sequences' lengths.
double squared_lengths(const ConstArray& offsets, Stream& stream) {
  std::vector<std::int32_t> host(static_cast<std::size_t>(offsets.size()));
  stream.copy_to_host(host.data(), offsets.data(), offsets.size_bytes());
  double squares = 0;
  for (std::size_t s = 1; s < host.size(); ++s) {
    const double length = host[s] - host[s - 1];
    squares += length * length;
  }
  return squares;
}

}  // namespace

OperationCost cost_of(const AttentionForward& a, Stream& stream) {
  const auto width = static_cast<double>(a.out.extent(1));
  return {.group = kAttention,
          .work = options(a.qkv.dtype()) + (a.logsumexp ? ", logsumexp" : ""),
          .size = fmt::format("{} of {}, at most {}, {} heads", size_of_array(a.qkv), a.offsets.size() - 1,
                              a.max_length, a.heads),
          .bytes = bytes_of({a.qkv, a.out}),
          .flops = 4 * squared_lengths(a.offsets, stream) * width,
          .type = a.qkv.dtype()};
}

OperationCost cost_of(const AttentionBackward& a, Stream& stream) {
  if (a.mode == GradientMode::ignore) return {.group = kAttention};
  const auto width = static_cast<double>(a.out.extent(1));
  return {.group = kAttention,
          .work = options(a.qkv.dtype(), a.mode),
          .size = fmt::format("{} of {}, at most {}, {} heads", size_of_array(a.qkv), a.offsets.size() - 1,
                              a.max_length, a.heads),
          .bytes = bytes_of({a.qkv, a.out, a.d_out}) + written(a.d_qkv, a.mode),
          .flops = 10 * squared_lengths(a.offsets, stream) * width,
          .type = a.qkv.dtype()};
}

OperationCost cost_of(const ClsAttentionForward& a, Stream&) {
  return {.group = kAttention,
          .work = options(a.kv.dtype()),
          .size = fmt::format("{} of {}, {} heads", size_of_array(a.kv), a.offsets.size() - 1, a.heads),
          .bytes = bytes_of({a.kv}),
          .flops = 2 * count(a.kv),
          .type = a.kv.dtype()};
}

OperationCost cost_of(const ClsAttentionBackward& a, Stream&) {
  return {.group = kAttention,
          .work = options(a.kv.dtype(), a.d_kv_mode),
          .size = fmt::format("{} of {}, {} heads", size_of_array(a.kv), a.offsets.size() - 1, a.heads),
          .bytes = bytes_of({a.kv}) + written(a.d_kv, a.d_kv_mode),
          .flops = 5 * count(a.kv),
          .type = a.kv.dtype()};
}

}  // namespace dino
