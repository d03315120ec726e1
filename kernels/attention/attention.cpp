#include "kernels/attention/attention.h"

#include "kernels/attention/cls_attention.h"

namespace dino {
namespace {

/// Width C of one of the `parts` that a row of x (T, parts · C) holds.
std::int64_t require_packed(const ConstArray& x, int parts, int heads, const char* where) {
  require(x && x.shape().rank() == 2, where, "the input must be a matrix (T, {}C); got {}", parts,
          x.shape().to_string());
  require(x.dtype() == DType::float32 || x.dtype() == DType::bfloat16, where,
          "unsupported element type; got {}, expected float32 or bfloat16", name_of(x.dtype()));
  require(heads >= 1 && x.extent(1) >= parts * heads && x.extent(1) % (parts * heads) == 0, where,
          "a row must hold {} parts of {} heads of one width; got {} columns", parts, heads, x.extent(1));
  return x.extent(1) / parts;
}

std::int64_t require_offsets(const ConstArray& offsets, int max_length, const char* where) {
  require(offsets && offsets.dtype() == DType::int32 && offsets.shape().rank() == 1 && offsets.extent(0) >= 2, where,
          "offsets must be (S + 1) int32; got {} {}", name_of(offsets.dtype()), offsets.shape().to_string());
  require(max_length >= 1, where, "max_length must be at least 1; got {}", max_length);
  return offsets.extent(0) - 1;
}

}  // namespace

void check_attention(const AttentionForward& args) {
  constexpr const char* kWhere = "attention";
  const std::int64_t width = require_packed(args.qkv, 3, args.heads, kWhere);
  const std::int64_t rows = args.qkv.extent(0);
  require_offsets(args.offsets, args.max_length, kWhere);
  require_array(args.out, args.qkv.dtype(), Shape{rows, width}, kWhere, "out");
  if (args.logsumexp) require_array(args.logsumexp, DType::float32, Shape{args.heads, rows}, kWhere, "logsumexp");
}

void check_attention(const AttentionBackward& args) {
  constexpr const char* kWhere = "attention_backward";
  const std::int64_t width = require_packed(args.qkv, 3, args.heads, kWhere);
  const std::int64_t rows = args.qkv.extent(0);
  require_offsets(args.offsets, args.max_length, kWhere);
  require_array(args.out, args.qkv.dtype(), Shape{rows, width}, kWhere, "out");
  require_array(args.logsumexp, DType::float32, Shape{args.heads, rows}, kWhere, "logsumexp");
  require_array(args.d_out, args.qkv.dtype(), Shape{rows, width}, kWhere, "d_out");
  if (args.mode != GradientMode::ignore) require_array(args.d_qkv, args.qkv.dtype(), args.qkv.shape(), kWhere, "d_qkv");
}

void check_attention(const ClsAttentionForward& args) {
  constexpr const char* kWhere = "cls_attention";
  const std::int64_t width = require_packed(args.kv, 2, args.heads, kWhere);
  const std::int64_t sequences = require_offsets(args.offsets, args.max_length, kWhere);
  require_array(args.q, args.kv.dtype(), Shape{sequences, width}, kWhere, "q");
  require_array(args.out, args.kv.dtype(), Shape{sequences, width}, kWhere, "out");
  require_array(args.probabilities, DType::float32, Shape{args.heads, args.kv.extent(0)}, kWhere, "probabilities");
}

void check_attention(const ClsAttentionBackward& args) {
  constexpr const char* kWhere = "cls_attention_backward";
  const std::int64_t width = require_packed(args.kv, 2, args.heads, kWhere);
  const std::int64_t sequences = require_offsets(args.offsets, args.max_length, kWhere);
  const Shape queries{sequences, width};
  require_array(args.q, args.kv.dtype(), queries, kWhere, "q");
  require_array(args.probabilities, DType::float32, Shape{args.heads, args.kv.extent(0)}, kWhere, "probabilities");
  require_array(args.d_out, args.kv.dtype(), queries, kWhere, "d_out");
  if (args.dq_mode != GradientMode::ignore) require_array(args.dq, args.kv.dtype(), queries, kWhere, "dq");
  if (args.d_kv_mode != GradientMode::ignore)
    require_array(args.d_kv, args.kv.dtype(), args.kv.shape(), kWhere, "d_kv");
}

}  // namespace dino
