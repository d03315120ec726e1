#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

namespace dino::cpu {

/// How column sums are cut into blocks of rows: by the number of rows alone, so that the order of the additions, and
/// with it every bit of the result, is the same for any number of threads.
struct RowBlocks {
  explicit RowBlocks(std::int64_t rows)
      : rows(rows), height(std::max<std::int64_t>(64, (rows + 255) / 256)), count((rows + height - 1) / height) {}

  std::int64_t begin(std::int64_t block) const { return block * height; }
  std::int64_t end(std::int64_t block) const { return std::min(rows, (block + 1) * height); }

  std::int64_t rows;
  std::int64_t height;
  std::int64_t count;
};

}  // namespace dino::cpu
