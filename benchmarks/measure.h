#pragma once

#include "benchmarks/benchmark.h"

namespace dino::bench {

/// What one call takes, over cold caches.
struct Timing {
  double median_ms = 0;
  double lower_ms = 0, upper_ms = 0;  // quartiles
  int calls = 0;

  /// Half the distance between the quartiles, relative to the median.
  double spread() const { return (upper_ms - lower_ms) / (2 * median_ms); }
};

enum class Clock : std::uint8_t {
  wall,
  cpu,  // time of this process on the processor by its threads: what a busy machine leaves steady, best with one thread
  device,  // time that a GPU is busy (DeviceClock)
};

struct MeasureOptions {
  Clock clock = Clock::wall;
  int repetitions = 11;
  double most_seconds = 2;  // for the kernel and for each reference; at least three calls, one of a reference
};

/// What a benchmark and each of its references took; these alternate, so that a busy moment of the machine hits all.
struct Measurement {
  Timing timing;
  std::vector<Timing> references;  // as Prepared::references
};

/// Reads so much memory before each call that nothing of it is left in a cache; on a GPU in the stream's order.
class ColdCache {
 public:
  explicit ColdCache(Context& context);
  void evict();
  std::size_t size_bytes() const { return buffer_.size_bytes(); }

 private:
  Context& context_;
  Tensor buffer_, sums_;
};

Measurement measure(const Prepared& prepared, Stream& stream, ColdCache& cold, const MeasureOptions& options);

/// What the machine can do at most: the yardstick of every share in the report.
struct Roofline {
  double copy_bytes_per_s = 0;  // read and written, by a copy of memory that is in no cache
  double fp32_flops_per_s = 0;  // of a large product, with the program's own matmul
  double bf16_flops_per_s = 0;

  double flops_per_s(DType dtype) const { return dtype == DType::bfloat16 ? bf16_flops_per_s : fp32_flops_per_s; }
  /// The least time for so many bytes and flops.
  double least_ms(double bytes, double flops, DType dtype) const;
  bool bound_by_memory(double bytes, double flops, DType dtype) const;
};
Roofline measure_roofline(Context& context, ColdCache& cold, const MeasureOptions& options);

/// Sizes of the data caches that one core sees, smallest first; empty where the system does not tell.
std::vector<std::size_t> cache_sizes_bytes();

double median(std::vector<double> values);

}  // namespace dino::bench
