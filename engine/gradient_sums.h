#pragma once

#include "engine/communicator.h"
#include "engine/parameters.h"

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace dino {

/// Elements [begin, end) of the flat gradient, summed over the ranks at one time.
struct GradientBucket {
  std::int64_t begin = 0, end = 0;
  std::int64_t trainable = 0;  // elements in it that backward writes
  std::string name;            // `gradients 3 of 12`

  bool operator==(const GradientBucket&) const = default;
};

/// Cuts the flat array between parameters into buckets of at least `bucket_bytes` of fp32, the last one of what is
/// left. They come in the order in which backward is done with them: from the array's end, where the head lies, to its
/// start.
std::vector<GradientBucket> plan_buckets(const ParameterLayout& layout, std::int64_t bucket_bytes);

/// Sums gradients over the ranks while backward still runs: a bucket is begun as soon as the gradients in it, and in
/// those before it, are whole. On a GPU sums run on a stream of their own, also within a recording.
class GradientSums {
 public:
  struct Options {
    DType type = DType::float32;  // bfloat16: half the bytes; gradients and sums are rounded to it on the way
    std::int64_t bucket_bytes = std::int64_t{25} << 20;
  };

  /// `gradient` is the store's, of layout.flat_size() fp32.
  GradientSums(Context& context, Communicator& communicator, const ParameterLayout& layout, const Tensor& gradient,
               const Options& options);

  /// Sums what the backward pass of `tape` makes. Comes before Tape::backward(), finish() after it.
  void watch(Tape& tape);
  /// Sums the rest. What is put on the context's stream after it sees the sums.
  void finish();

  const std::vector<GradientBucket>& buckets() const { return buckets_; }

 private:
  /// `part` of the gradient is whole.
  void note_whole(const Tensor& part);
  void sum_next();

  Context& context_;
  Communicator& communicator_;
  Tensor gradient_;
  Tensor rounded_;  // (flat size) bf16, or empty
  std::unique_ptr<Stream> side_;
  std::vector<GradientBucket> buckets_;
  std::vector<std::int64_t> missing_;  // per bucket: elements that are not whole yet
  std::size_t next_ = 0;               // the bucket to sum
};

}  // namespace dino
