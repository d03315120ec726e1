// One crop on one thread, from a picture of ImageNet's usual size: the default plans of each kind of view, and the
// single steps. crops/s is what one core delivers.
#include "data/crop_plan.h"
#include "data/image.h"
#include "kernels/augment/augment.h"

#include <benchmark/benchmark.h>

#include <vector>

using namespace dino;

namespace {

constexpr int kHeight = 375, kWidth = 500;

Image noisy_gradient() {
  Image image;
  image.resize(kHeight, kWidth);
  Random random(1, RandomStream::test);
  for (int y = 0; y < kHeight; ++y) {
    for (int x = 0; x < kWidth; ++x) {
      for (int c = 0; c < 3; ++c) {
        image.rgb[static_cast<std::size_t>((y * kWidth + x) * 3 + c)] =
            static_cast<std::uint8_t>((x * (c + 1) / 4 + y / 2 + static_cast<int>(random.below(32))) & 255);
      }
    }
  }
  return image;
}

template <typename Run>
void run_plans(benchmark::State& state, const std::vector<CropPlan>& plans, Run&& run) {
  const Image image = noisy_gradient();
  std::vector<std::uint8_t> output(static_cast<std::size_t>(plans[0].output_height * plans[0].output_width * 3));
  std::size_t i = 0;
  for (auto _ : state) {
    const CropPlan& plan = plans[i++ % plans.size()];
    run(AugmentCrop{image.array(), plan, {output.data(), {plan.output_height, plan.output_width, 3}}});
    benchmark::DoNotOptimize(output.data());
  }
  state.counters["crops/s"] = benchmark::Counter(static_cast<double>(state.iterations()), benchmark::Counter::kIsRate);
}

std::vector<CropPlan> default_plans(int view) {
  std::vector<CropPlan> plans;
  for (std::uint64_t sample = 0; sample < 64; ++sample)
    plans.push_back(plan_crop(kHeight, kWidth, view, {}, 1, 0, sample));
  return plans;
}

void views(benchmark::State& state) {
  const auto stream = make_cpu_stream();
  run_plans(state, default_plans(static_cast<int>(state.range(0))),
            [&](const AugmentCrop& args) { augment_crop(args, *stream); });
}
BENCHMARK(views)->ArgName("view")->Arg(0)->Arg(1)->Arg(2)->Unit(benchmark::kMicrosecond);

void views_reference(benchmark::State& state) {
  run_plans(state, default_plans(static_cast<int>(state.range(0))),
            [&](const AugmentCrop& args) { reference::augment_crop(args); });
}
BENCHMARK(views_reference)->ArgName("view")->Arg(0)->Arg(2)->Unit(benchmark::kMicrosecond);

/// A typical box (area 0.7) to 224 x 224 with a single step.
template <typename Change>
void step(benchmark::State& state, Change&& change) {
  CropPlan plan;
  plan.top = 30;
  plan.left = 40;
  plan.height = 314;
  plan.width = 418;
  plan.resized_height = plan.resized_width = plan.output_height = plan.output_width = 224;
  change(plan);
  const auto stream = make_cpu_stream();
  run_plans(state, {plan}, [&](const AugmentCrop& args) { augment_crop(args, *stream); });
}
CropPlan& jitter(CropPlan& plan, JitterStep jitter_step) {
  plan.jitter_steps = 1;
  plan.jitter_order[0] = jitter_step;
  plan.brightness = plan.contrast = plan.saturation = 1.2F;
  plan.hue = 0.07;
  return plan;
}
void resize(benchmark::State& state) {
  step(state, [](CropPlan&) {});
}
void resize_brightness(benchmark::State& state) {
  step(state, [](CropPlan& p) { jitter(p, JitterStep::brightness); });
}
void resize_contrast(benchmark::State& state) {
  step(state, [](CropPlan& p) { jitter(p, JitterStep::contrast); });
}
void resize_saturation(benchmark::State& state) {
  step(state, [](CropPlan& p) { jitter(p, JitterStep::saturation); });
}
void resize_hue(benchmark::State& state) {
  step(state, [](CropPlan& p) { jitter(p, JitterStep::hue); });
}
void resize_blur(benchmark::State& state) {
  step(state, [](CropPlan& p) { p.blur_radius = 1.5F; });
}
BENCHMARK(resize)->Unit(benchmark::kMicrosecond);
BENCHMARK(resize_brightness)->Unit(benchmark::kMicrosecond);
BENCHMARK(resize_contrast)->Unit(benchmark::kMicrosecond);
BENCHMARK(resize_saturation)->Unit(benchmark::kMicrosecond);
BENCHMARK(resize_hue)->Unit(benchmark::kMicrosecond);
BENCHMARK(resize_blur)->Unit(benchmark::kMicrosecond);

}  // namespace

BENCHMARK_MAIN();
