// Pictures a second of the loader with DINO's ten crops, from pictures already decoded: the cost of the crops. The
// argument is the number of threads.
#include "data/loader.h"

#include <benchmark/benchmark.h>

using namespace dino;

namespace {

class DecodedImages final : public ImageSource {
 public:
  DecodedImages() {
    image_.resize(375, 500);
    Random random(1, RandomStream::test);
    for (std::size_t i = 0; i < image_.rgb.size(); ++i)
      image_.rgb[i] = static_cast<std::uint8_t>(i / 97 + random.below(32));
  }
  std::int64_t size() const override { return 1024; }
  void decode(std::int64_t, Image& image) const override { image = image_; }
  std::int32_t label(std::int64_t) const override { return 0; }
  std::string name(std::int64_t) const override { return "drawn"; }

 private:
  Image image_;
};

void ten_crops(benchmark::State& state) {
  const DecodedImages source;
  Loader loader(source, {.size = source.size(), .batch = 16}, multi_crop_views({}, 0),
                {.threads = static_cast<int>(state.range(0)), .prefetch_batches = 2});
  Batch batch;
  loader.next(batch);
  std::int64_t images = 0;
  for (auto _ : state) {
    loader.next(batch);
    images += batch.size();
    benchmark::DoNotOptimize(batch.groups[0].pixels.data());
  }
  state.counters["images/s"] = benchmark::Counter(static_cast<double>(images), benchmark::Counter::kIsRate);
}
BENCHMARK(ten_crops)->ArgName("threads")->Arg(1)->Arg(2)->UseRealTime()->MeasureProcessCPUTime()->Unit(
    benchmark::kMillisecond);

}  // namespace

BENCHMARK_MAIN();
