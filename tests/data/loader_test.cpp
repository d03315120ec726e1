#include "data/loader.h"

#include "data/upload.h"
#include "tests/support/catch.h"

#include <atomic>
#include <set>
#include <thread>

using namespace dino;

namespace {

/// Pictures drawn from their number, some of them broken.
class DrawnImages final : public ImageSource {
 public:
  explicit DrawnImages(std::int64_t size, std::set<std::int64_t> broken = {})
      : size_(size), broken_(std::move(broken)) {}

  std::int64_t size() const override { return size_; }
  void decode(std::int64_t index, Image& image) const override {
    ++decoded;
    if (broken_.contains(index)) fail("drawn", "picture {} is broken", index);
    if (index == foreign) throw std::runtime_error("out of paint");
    image.resize(20 + static_cast<int>(index % 7), 30 - static_cast<int>(index % 5));
    for (std::size_t i = 0; i < image.rgb.size(); ++i) {
      image.rgb[i] = static_cast<std::uint8_t>(static_cast<std::size_t>(index) * 37 + i * (i % 3 + 1));
    }
    // Threads overtake each other.
    if (index % 4 == 0) std::this_thread::sleep_for(std::chrono::microseconds(300));
  }
  std::int32_t label(std::int64_t index) const override { return static_cast<std::int32_t>(index % 10); }
  std::string name(std::int64_t index) const override { return "picture-" + std::to_string(index); }

  mutable std::atomic<int> decoded{0};
  std::int64_t foreign = -1;

 private:
  std::int64_t size_;
  std::set<std::int64_t> broken_;
};

MultiCropOptions small_crops() {
  MultiCropOptions options;
  options.global_size_px = 16;
  options.local_size_px = 8;
  options.local_crops = 3;
  return options;
}

std::vector<Batch> load_all(const ImageSource& source, SamplerOptions sampler, LoaderOptions options) {
  sampler.size = source.size();
  if (options.end_epoch < 0) options.end_epoch = options.epoch + 2;
  Loader loader(source, sampler, multi_crop_views(small_crops(), sampler.seed), options);
  std::vector<Batch> batches;
  Batch batch;
  while (loader.next(batch)) batches.push_back(batch);
  CHECK_FALSE(loader.next(batch));
  return batches;
}

void check_same(const Batch& a, const Batch& b) {
  CHECK(a.epoch == b.epoch);
  CHECK(a.index == b.index);
  CHECK(a.samples == b.samples);
  CHECK(a.labels == b.labels);
  REQUIRE(a.groups.size() == b.groups.size());
  for (std::size_t g = 0; g < a.groups.size(); ++g) {
    CHECK(a.groups[g].views == b.groups[g].views);
    CHECK(a.groups[g].pixels == b.groups[g].pixels);
  }
}

}  // namespace

TEST_CASE("batches are the same for any number of threads and any prefetch") {
  const DrawnImages source(23, {3, 4, 11, 22});
  const SamplerOptions sampler{.batch = 5, .seed = 9};
  const std::vector<Batch> expected = load_all(source, sampler, {.threads = 1, .prefetch_batches = 1});
  REQUIRE(expected.size() == 8);
  for (const int threads : {2, 3, 7}) {
    for (const int prefetch : {1, 2, 6}) {
      const std::vector<Batch> got = load_all(source, sampler, {.threads = threads, .prefetch_batches = prefetch});
      REQUIRE(got.size() == expected.size());
      for (std::size_t i = 0; i < got.size(); ++i) check_same(got[i], expected[i]);
    }
  }
}

TEST_CASE("a batch holds every view of its pictures, view-major, as planned") {
  const DrawnImages source(12);
  const std::vector<Batch> batches =
      load_all(source, {.batch = 4, .seed = 2}, {.threads = 2, .epoch = 3, .end_epoch = 4});
  REQUIRE(batches.size() == 3);
  CHECK(source.decoded == 12);  // once per picture, not per crop
  const auto stream = make_cpu_stream();
  const MultiCropOptions options = small_crops();
  std::set<std::int64_t> seen;
  for (const Batch& batch : batches) {
    CHECK(batch.epoch == 3);
    REQUIRE(batch.size() == 4);
    REQUIRE(batch.groups.size() == 2);
    CHECK(batch.crops(0).shape() == Shape({2, 4, 16, 16, 3}));
    CHECK(batch.crops(1).shape() == Shape({3, 4, 8, 8, 3}));
    for (std::size_t b = 0; b < 4; ++b) {
      seen.insert(batch.samples[b]);
      CHECK(batch.labels[b] == batch.samples[b] % 10);
      Image image;
      source.decode(batch.samples[b], image);
      for (int view = 0; view < 5; ++view) {
        const int size = view < 2 ? 16 : 8;
        std::vector<std::uint8_t> crop(static_cast<std::size_t>(size * size * 3));
        const CropPlan plan =
            plan_crop(image.height, image.width, view, options, 2, 3, static_cast<std::uint64_t>(batch.samples[b]));
        augment_crop({.image = image.array(), .plan = plan, .output = {crop.data(), {size, size, 3}}}, *stream);
        const auto& pixels = batch.groups[view < 2 ? 0 : 1].pixels;
        const auto at =
            pixels.begin() +
            static_cast<std::ptrdiff_t>((static_cast<std::size_t>(view < 2 ? view : view - 2) * 4 + b) * crop.size());
        CHECK(std::equal(crop.begin(), crop.end(), at));
      }
    }
  }
  CHECK(seen.size() == 12);
}

TEST_CASE("a loader resumes at any batch, and epochs differ") {
  const DrawnImages source(20);
  const SamplerOptions sampler{.batch = 4, .seed = 1};
  const std::vector<Batch> all = load_all(source, sampler, {.threads = 2, .end_epoch = 3});
  REQUIRE(all.size() == 15);
  const std::vector<Batch> rest = load_all(source, sampler, {.threads = 3, .epoch = 1, .batch = 3, .end_epoch = 3});
  REQUIRE(rest.size() == 7);
  for (std::size_t i = 0; i < rest.size(); ++i) check_same(rest[i], all[i + 8]);
  CHECK(all[0].samples != all[5].samples);
}

TEST_CASE("a picture's crops do not depend on its rank or place in the batch") {
  const DrawnImages source(16);
  const std::vector<Batch> whole = load_all(source, {.batch = 8, .seed = 6}, {.threads = 2});
  for (const int rank : {0, 1}) {
    const std::vector<Batch> part = load_all(source, {.batch = 4, .rank = rank, .ranks = 2, .seed = 6}, {.threads = 2});
    REQUIRE(part.size() == whole.size());
    for (std::size_t i = 0; i < part.size(); ++i) {
      for (int b = 0; b < 4; ++b) {
        CHECK(part[i].samples[static_cast<std::size_t>(b)] == whole[i].samples[static_cast<std::size_t>(rank * 4 + b)]);
        const std::ptrdiff_t crop = 16 * 16 * 3;
        for (std::ptrdiff_t view = 0; view < 2; ++view) {
          const auto ours = part[i].groups[0].pixels.begin() + (view * 4 + b) * crop;
          CHECK(std::equal(ours, ours + crop, whole[i].groups[0].pixels.begin() + (view * 8 + rank * 4 + b) * crop));
        }
      }
    }
  }
}

TEST_CASE("crops made on the device are those that the loader's threads make") {
  const DrawnImages source(14, {3});
  const SamplerOptions sampler{.batch = 4, .drop_last = false, .seed = 9};
  const std::vector<Batch> made = load_all(source, sampler, {.threads = 2});
  const std::vector<Batch> planned = load_all(source, sampler, {.threads = 3, .augment = AugmentOn::device});
  REQUIRE(made.size() == planned.size());
  const auto context = make_cpu_context();
  for (std::size_t i = 0; i < made.size(); ++i) {
    CHECK(planned[i].samples == made[i].samples);
    CHECK(planned[i].labels == made[i].labels);
    CHECK(made[i].images.empty());
    CHECK(planned[i].images.size() == planned[i].samples.size());
    CHECK_THROWS_AS(planned[i].crops(0), Error);
    const std::vector<CropGroup> copied = upload_crops(*context, made[i]);
    const std::vector<CropGroup> cropped = upload_crops(*context, planned[i]);
    REQUIRE(copied.size() == 2);
    REQUIRE(cropped.size() == 2);
    for (std::size_t g = 0; g < 2; ++g) {
      const std::vector<std::uint8_t>& pixels = made[i].groups[g].pixels;
      const Shape shape{(g == 0 ? 2 : 3) * made[i].size(), g == 0 ? 16 : 8, g == 0 ? 16 : 8, 3};
      for (const Tensor& crops : {copied[g].pixels, cropped[g].pixels}) {
        REQUIRE(crops.shape() == shape);
        CHECK(std::equal(pixels.begin(), pixels.end(), crops.as<std::uint8_t>()));
      }
    }
  }
  Batch wrong = planned[0];
  wrong.groups[1].plans[2].left = 1000;
  CHECK_THROWS_AS(upload_crops(*context, wrong), Error);
}

TEST_CASE("broken pictures are replaced by the next good one, counted and named") {
  const DrawnImages source(10, {0, 1, 9});
  Loader loader(source, {.size = 10, .batch = 10, .shuffle = false}, center_crop_views(12, 8),
                {.threads = 3, .end_epoch = 2});
  Batch batch;
  for (int epoch = 0; epoch < 2; ++epoch) {
    REQUIRE(loader.next(batch));
    CHECK(batch.samples == std::vector<std::int64_t>{2, 2, 2, 3, 4, 5, 6, 7, 8, 2});
    CHECK(batch.labels == std::vector<std::int32_t>{2, 2, 2, 3, 4, 5, 6, 7, 8, 2});
  }
  CHECK_FALSE(loader.next(batch));
  const BrokenImages broken = loader.broken();
  CHECK(broken.count == 3);
  REQUIRE(broken.entries.size() == 3);
  std::set<std::string> names;
  for (const auto& [index, name, reason] : broken.entries) {
    CHECK(name == source.name(index));
    names.insert(name);
    CHECK(reason.find("is broken") != std::string::npos);
  }
  CHECK(names == std::set<std::string>{"picture-0", "picture-1", "picture-9"});
}

TEST_CASE("broken pictures that are left out leave their places black") {
  for (const std::set<std::int64_t>& broken : {std::set<std::int64_t>{0, 1, 3}, std::set<std::int64_t>{0, 1, 2, 3}}) {
    const DrawnImages whole(4), source(4, broken);
    Loader good(whole, {.size = 4, .batch = 4, .shuffle = false}, center_crop_views(12, 8), {.threads = 2});
    Loader loader(source, {.size = 4, .batch = 4, .shuffle = false}, center_crop_views(12, 8),
                  {.threads = 3, .end_epoch = 2, .broken_pictures = BrokenPictures::left_out});
    Batch expected, batch;
    REQUIRE(good.next(expected));
    for (int epoch = 0; epoch < 2; ++epoch) {
      REQUIRE(loader.next(batch));
      REQUIRE(batch.size() == 4);
      const std::size_t crop = 8 * 8 * 3;
      for (std::size_t i = 0; i < 4; ++i) {
        const bool gone = broken.contains(static_cast<std::int64_t>(i));
        CHECK(batch.samples[i] == (gone ? -1 : expected.samples[i]));
        CHECK(batch.labels[i] == (gone ? -1 : expected.labels[i]));
        const std::uint8_t* pixels = batch.groups[0].pixels.data() + i * crop;
        const std::vector<std::uint8_t> black(crop);
        const std::uint8_t* wanted = gone ? black.data() : expected.groups[0].pixels.data() + i * crop;
        CHECK(std::equal(wanted, wanted + crop, pixels));
      }
    }
    CHECK_FALSE(loader.next(batch));
    CHECK(loader.broken().count == static_cast<std::int64_t>(broken.size()));
  }
  const DrawnImages source(4);
  CHECK_THROWS_AS(Loader(source, {.size = 4, .batch = 4}, center_crop_views(12, 8),
                         {.broken_pictures = BrokenPictures::left_out, .augment = AugmentOn::device}),
                  Error);
}

TEST_CASE("a data set without a good picture is an error, as is a broken picture that must not be replaced") {
  const DrawnImages all_broken(5, {0, 1, 2, 3, 4});
  Batch batch;
  {
    Loader loader(all_broken, {.size = 5, .batch = 2}, center_crop_views(12, 8), {.threads = 3});
    CHECK_THROWS_AS(loader.next(batch), Error);
    CHECK_THROWS_AS(loader.next(batch), Error);
  }
  const DrawnImages one_broken(6, {4});
  Loader strict(one_broken, {.size = 6, .batch = 2, .shuffle = false}, center_crop_views(12, 8),
                {.threads = 2, .broken_pictures = BrokenPictures::refused});
  CHECK(strict.next(batch));
  CHECK(strict.next(batch));
  CHECK_THROWS_AS(strict.next(batch), Error);
}

TEST_CASE("an exception in a thread surfaces in next(), after the batches before it") {
  DrawnImages source(12);
  source.foreign = 7;
  Loader loader(source, {.size = 12, .batch = 3, .shuffle = false}, center_crop_views(12, 8), {.threads = 4});
  Batch batch;
  CHECK(loader.next(batch));
  CHECK(loader.next(batch));
  CHECK_THROWS_WITH(loader.next(batch), "out of paint");
  CHECK_THROWS_WITH(loader.next(batch), "out of paint");
}

TEST_CASE("a loader may be left at any time, and keeps to its bound") {
  const DrawnImages source(64);
  for (const int taken : {0, 1, 3}) {
    source.decoded = 0;
    Loader loader(source, {.size = 64, .batch = 4}, center_crop_views(12, 8), {.threads = 3, .prefetch_batches = 2});
    Batch batch;
    for (int i = 0; i < taken; ++i) REQUIRE(loader.next(batch));
    std::this_thread::sleep_for(std::chrono::milliseconds(30));
    CHECK(source.decoded <= 4 * (taken + 2));
    CHECK(loader.total_wait_ms() >= batch.wait_ms);
  }
}

TEST_CASE("evaluation delivers every picture once, the last batch short") {
  const DrawnImages source(10);
  Loader loader(source, {.size = 10, .batch = 4, .shuffle = false, .drop_last = false}, center_crop_views(12, 8),
                {.threads = 2, .end_epoch = 1});
  Batch batch;
  std::vector<std::int64_t> seen;
  while (loader.next(batch)) {
    CHECK(batch.crops(0).extent(1) == batch.size());
    seen.insert(seen.end(), batch.samples.begin(), batch.samples.end());
  }
  CHECK(seen == std::vector<std::int64_t>{0, 1, 2, 3, 4, 5, 6, 7, 8, 9});
}

TEST_CASE("a loader says what does not fit") {
  const DrawnImages source(10);
  const ViewSet views = center_crop_views(12, 8);
  CHECK_THROWS_AS(Loader(source, {.size = 9, .batch = 2}, views, {}), Error);
  CHECK_THROWS_AS(Loader(source, {.size = 10, .batch = 2}, {}, {}), Error);
  CHECK_THROWS_AS(Loader(source, {.size = 10, .batch = 2}, views, {.batch = 5}), Error);
  CHECK_THROWS_AS(Loader(source, {.size = 10, .batch = 2}, views, {.prefetch_batches = 0}), Error);
}
