#include "engine/ops/sequences.h"

#include <algorithm>

namespace dino {

Sequences make_sequences(Context& context, const std::vector<std::int32_t>& lengths) {
  require(!lengths.empty(), "sequences", "no sequences were given");
  Sequences result;
  result.host_offsets.push_back(0);
  std::vector<std::int32_t> row_sequence;
  for (const std::int32_t length : lengths) {
    require(length >= 1, "sequences", "a sequence has at least one token; got {}", length);
    row_sequence.insert(row_sequence.end(), static_cast<std::size_t>(length),
                        static_cast<std::int32_t>(result.count()));
    result.host_offsets.push_back(result.host_offsets.back() + length);
    result.max_length = std::max<int>(result.max_length, length);
  }
  result.offsets = context.from_host(ConstArray(result.host_offsets.data(), Shape{result.count() + 1}));
  result.first_rows = context.from_host(ConstArray(result.host_offsets.data(), Shape{result.count()}));
  result.row_sequence = context.from_host(ConstArray(row_sequence.data(), Shape{result.rows()}));
  return result;
}

}  // namespace dino
