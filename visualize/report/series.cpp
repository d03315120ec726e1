#include "visualize/report/series.h"

#include <algorithm>
#include <cmath>

namespace dino {

void Series::add(double x, double y) {
  if (!std::isfinite(x) || !std::isfinite(y)) {
    ++not_finite_;
    return;
  }
  if (count_++ == 0) first_ = y;
  last_ = y;
  if (!buckets_.empty() && buckets_.back().count < per_bucket_) {
    Bucket& open = buckets_.back();
    open = {open.x_sum + x, std::min(open.low, y), open.sum + y, std::max(open.high, y), open.count + 1};
    return;
  }
  if (buckets_.size() == kMaxPoints) {
    for (std::size_t i = 0; i < kMaxPoints / 2; ++i) {
      const Bucket &a = buckets_[2 * i], &b = buckets_[2 * i + 1];
      buckets_[i] = {a.x_sum + b.x_sum, std::min(a.low, b.low), a.sum + b.sum, std::max(a.high, b.high),
                     a.count + b.count};
    }
    buckets_.resize(kMaxPoints / 2);
    per_bucket_ *= 2;
  }
  buckets_.push_back({x, y, y, y, 1});
}

std::vector<SeriesPoint> Series::points() const {
  std::vector<SeriesPoint> points;
  for (const Bucket& b : buckets_) {
    const auto count = static_cast<double>(b.count);
    points.push_back({b.x_sum / count, b.low, b.sum / count, b.high});
  }
  return points;
}

double Series::smallest() const {
  double low = first_;
  for (const Bucket& b : buckets_) low = std::min(low, b.low);
  return low;
}

double Series::largest() const {
  double high = first_;
  for (const Bucket& b : buckets_) high = std::max(high, b.high);
  return high;
}

double Series::recent() const {
  double sum = 0, count = 0;
  const std::size_t wanted = std::max<std::size_t>(1, buckets_.size() / 20);
  for (std::size_t i = buckets_.size() - std::min(wanted, buckets_.size()); i < buckets_.size(); ++i) {
    sum += buckets_[i].sum;
    count += static_cast<double>(buckets_[i].count);
  }
  return count > 0 ? sum / count : 0;
}

}  // namespace dino
