#include "visualize/object_coverage.h"

#include "kernels/common/error.h"
#include "tests/support/catch.h"

#include <limits>

using namespace dino;

TEST_CASE("patch shares count the object's pixels") {
  // 4×4 pixels, patches of 2: the left upper patch is full, the right lower one has one pixel.
  const std::vector<std::uint8_t> mask = {255, 128, 0, 0, 200, 255, 127, 0, 0, 0, 0, 0, 0, 0, 0, 255};
  CHECK(patch_shares(mask, 4, 4, 2) == std::vector<float>{1.0F, 0.0F, 0.0F, 0.25F});
  CHECK_THROWS_AS(patch_shares(mask, 4, 4, 3), Error);
}

TEST_CASE("object coverage of hand-made attention") {
  ObjectCoverageMeter meter(2);
  const std::vector<float> object = {1.0F, 0.5F, 0.0F, 0.0F};
  //                                  head 0: all on the object      head 1: even
  const std::vector<float> attention = {2.0F, 0.0F, 0.0F, 0.0F, 1.0F, 1.0F, 1.0F, 1.0F};
  const std::vector<float> mask = {1, 0, 0, 0, 1, 1, 1, 0};
  meter.add(attention, mask, object);
  meter.add(attention, mask, object);
  const ObjectCoverage result = meter.result();
  CHECK(result.images == 2);
  CHECK(result.object_share == Approx(0.375));
  CHECK(result.mass_on_object[0] == Approx(1.0));
  CHECK(result.mass_on_object[1] == Approx(0.375));
  CHECK(result.mask_iou[0] == Approx(1.0 / 1.5));
  CHECK(result.mask_iou[1] == Approx(1.5 / 3.0));
}

TEST_CASE("object coverage refuses what says nothing") {
  ObjectCoverageMeter meter(1);
  const std::vector<float> two = {1.0F, 1.0F};
  const std::vector<float> none = {0.0F, 0.0F};
  const std::vector<float> bad = {std::numeric_limits<float>::quiet_NaN(), 1.0F};
  CHECK_THROWS_AS(meter.result(), Error);
  CHECK_THROWS_AS(meter.add(two, two, none), Error);
  CHECK_THROWS_AS(meter.add(none, two, two), Error);
  CHECK_THROWS_AS(meter.add(bad, two, two), Error);
  CHECK_THROWS_AS(meter.add(two, two, {}), Error);
}
