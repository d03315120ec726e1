#include "evaluate/few_shot.h"

#include "kernels/common/error.h"
#include "tests/support/catch.h"

#include <algorithm>
#include <cmath>
#include <set>

using namespace dino;

TEST_CASE("Few shots are drawn of each class, nested, and differ by seed") {
  std::vector<std::int32_t> labels;
  for (int i = 0; i < 300; ++i) labels.push_back(i % 3 == 0 ? 0 : 1);
  labels.push_back(2);
  labels.push_back(2);
  const FewShot five = draw_few_shot(labels, 5, 1), one = draw_few_shot(labels, 1, 1);
  CHECK(five.rows.size() == 5 + 5 + 2);
  CHECK(five.short_classes == 1);
  CHECK(one.rows.size() == 3);
  CHECK(one.short_classes == 0);
  CHECK(std::is_sorted(five.rows.begin(), five.rows.end()));
  CHECK(std::includes(five.rows.begin(), five.rows.end(), one.rows.begin(), one.rows.end()));
  CHECK(std::set<std::int64_t>(five.rows.begin(), five.rows.end()).size() == 12);
  CHECK(draw_few_shot(labels, 5, 1).rows == five.rows);
  CHECK(draw_few_shot(labels, 5, 2).rows != five.rows);
  // Every row of class 0 is drawn about as often: 4000 draws of 1 in 100, 40 ± 6.3 each.
  std::vector<int> drawn(300, 0);
  for (std::uint64_t seed = 0; seed < 4000; ++seed) {
    for (const std::int64_t row : draw_few_shot(labels, 1, seed).rows)
      if (row < 300) ++drawn[static_cast<std::size_t>(row)];
  }
  int least = 4000, most = 0;
  for (std::size_t i = 0; i < 300; i += 3) {
    least = std::min(least, drawn[i]);
    most = std::max(most, drawn[i]);
  }
  CHECK(least >= 8);
  CHECK(most <= 80);
  CHECK_THROWS_AS(draw_few_shot(labels, 0, 1), Error);
  CHECK_THROWS_AS(draw_few_shot(std::vector<std::int32_t>{-1}, 1, 1), Error);

  const MeanDeviation m = mean_deviation(std::vector<double>{1, 2, 6});
  CHECK(m.mean == Approx(3));
  CHECK(m.deviation == Approx(std::sqrt(7.0)));
  CHECK(mean_deviation(std::vector<double>{4}).deviation == 0);
}
