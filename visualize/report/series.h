#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace dino {

/// Neighbouring values of a curve, put together.
struct SeriesPoint {
  double x = 0;  // mean of theirs
  double low = 0, mean = 0, high = 0;
};

/// A curve of any length in bounded memory: neighbours are put together, with the smallest and the largest of them, as
/// soon as there are too many. A spike of one step in a million stays visible.
class Series {
 public:
  /// A curve has at most so many points, and from half of that on where values were put together.
  static constexpr std::size_t kMaxPoints = 300;

  /// Values come in the order of x. What is not finite is counted and left out.
  void add(double x, double y);

  std::vector<SeriesPoint> points() const;
  bool empty() const { return count_ == 0; }
  std::int64_t count() const { return count_; }  // of finite values
  std::int64_t not_finite() const { return not_finite_; }
  double first() const { return first_; }
  double last() const { return last_; }
  double smallest() const;
  double largest() const;
  /// Mean of the last `points()`, one in twenty of them and at least one: a value that a single step does not decide.
  double recent() const;

 private:
  struct Bucket {
    double x_sum, low, sum, high;
    std::int64_t count;
  };
  std::vector<Bucket> buckets_;
  std::int64_t per_bucket_ = 1;
  std::int64_t count_ = 0, not_finite_ = 0;
  double first_ = 0, last_ = 0;
};

}  // namespace dino
