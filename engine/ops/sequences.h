#pragma once

#include "engine/context.h"

#include <cstdint>
#include <vector>

namespace dino {

/// How sequences of several lengths lie one behind the other in a token matrix (T, C). Built once per shape of batch.
struct Sequences {
  std::vector<std::int32_t> host_offsets;  // (S + 1), the first is 0, the last is T
  Tensor offsets;                          // (S + 1) int32: cu_seqlens on the device
  Tensor first_rows;                       // (S) int32: row of each sequence's CLS token
  Tensor row_sequence;                     // (T) int32: the sequence that each row belongs to
  int max_length = 0;

  std::int64_t count() const { return static_cast<std::int64_t>(host_offsets.size()) - 1; }
  std::int64_t rows() const { return host_offsets.back(); }
};

Sequences make_sequences(Context& context, const std::vector<std::int32_t>& lengths);

}  // namespace dino
