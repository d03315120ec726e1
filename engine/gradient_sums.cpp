#include "engine/gradient_sums.h"

#include "kernels/cast/cast.h"

#include <algorithm>

namespace dino {

std::vector<GradientBucket> plan_buckets(const ParameterLayout& layout, std::int64_t bucket_bytes) {
  require(bucket_bytes >= 1, "gradient sums", "a bucket has at least one byte; got {}", bucket_bytes);
  std::vector<GradientBucket> buckets;
  std::int64_t end = layout.flat_size();
  std::int64_t trainable = 0;
  const auto& infos = layout.infos();
  for (std::size_t i = infos.size(); i-- > 0;) {
    if (infos[i].trainable) trainable += infos[i].size();
    const std::int64_t size_bytes = (end - infos[i].offset) * std::int64_t{sizeof(float)};
    if (size_bytes < bucket_bytes && i > 0) continue;
    buckets.push_back({.begin = infos[i].offset, .end = end, .trainable = trainable, .name = {}});
    end = infos[i].offset;
    trainable = 0;
  }
  for (std::size_t b = 0; b < buckets.size(); ++b)
    buckets[b].name = fmt::format("gradients {} of {}", b + 1, buckets.size());
  return buckets;
}

GradientSums::GradientSums(Context& context, Communicator& communicator, const ParameterLayout& layout,
                           const Tensor& gradient, const Options& options)
    : context_(context),
      communicator_(communicator),
      gradient_(gradient),
      side_(context.stream().make_side_stream()),
      buckets_(plan_buckets(layout, options.bucket_bytes)) {
  if (options.type == DType::bfloat16 && communicator.size() > 1)
    rounded_ = context.empty(gradient.shape(), DType::bfloat16);
}

void GradientSums::watch(Tape& tape) {
  next_ = 0;
  missing_.clear();
  for (const GradientBucket& bucket : buckets_) missing_.push_back(bucket.trainable);
  tape.when_whole([this](const Tensor& part) { note_whole(part); });
}

void GradientSums::note_whole(const Tensor& part) {
  const std::int64_t at = (part.data() - gradient_.data()) / std::int64_t{sizeof(float)};
  const auto bucket = std::find_if(buckets_.begin(), buckets_.end(),
                                   [&](const GradientBucket& b) { return b.begin <= at && at < b.end; });
  require(bucket != buckets_.end(), "gradient sums", "a gradient lies outside of the store");
  missing_[static_cast<std::size_t>(bucket - buckets_.begin())] -= part.size();
  while (next_ < buckets_.size() && missing_[next_] == 0) sum_next();
}

void GradientSums::finish() {
  while (next_ < buckets_.size()) sum_next();
  if (side_) context_.stream().wait_for(*side_);
}

void GradientSums::sum_next() {
  const GradientBucket& bucket = buckets_[next_++];
  Stream& stream = side_ ? *side_ : context_.stream();
  if (side_) side_->wait_for(context_.stream());
  const Tensor part = gradient_.rows(bucket.begin, bucket.end);
  if (!rounded_) return communicator_.all_reduce_sum(part.array(), stream, bucket.name);
  const Tensor rounded = rounded_.rows(bucket.begin, bucket.end);
  cast({.x = part.const_array(), .y = rounded.array()}, stream);
  communicator_.all_reduce_sum(rounded.array(), stream, bucket.name);
  cast({.x = rounded.const_array(), .y = part.array()}, stream);
}

}  // namespace dino
