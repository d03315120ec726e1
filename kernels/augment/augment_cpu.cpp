#include "kernels/augment/augment_cpu.h"
#include "kernels/common/parallel.h"

#include <algorithm>
#include <utility>

namespace dino::cpu {
namespace {

using namespace augment;

void jitter(const Planes& planes, const CropPlan& plan, JitterStep step) {
  switch (step) {
    case JitterStep::brightness: blend_with_constant(planes, 0.0F, plan.brightness); break;
    case JitterStep::contrast: {
      const std::int64_t rounded_mean = (2 * sum_of_grey(planes) + planes.size()) / (2 * planes.size());
      blend_with_constant(planes, static_cast<float>(rounded_mean), plan.contrast);
      break;
    }
    case JitterStep::saturation: blend_with_grey(planes, plan.saturation); break;
    case JitterStep::hue: shift_hue(planes, static_cast<int>(plan.hue * 255.0) & 255); break;
  }
}

/// Hands out parts of one piece of memory; first counted without memory, then for good.
class Carver {
 public:
  explicit Carver(std::uint8_t* memory) : memory_(memory) {}
  std::uint8_t* take(std::int64_t size_bytes) {
    std::uint8_t* const part = memory_ == nullptr ? nullptr : memory_ + used_;
    used_ += (size_bytes + kSlack + 63) / 64 * 64;
    return part;
  }
  std::size_t used() const { return static_cast<std::size_t>(used_); }

 private:
  std::uint8_t* memory_;
  std::int64_t used_ = 0;
};

/// How the scratch memory of one crop is divided: bounds that hold for every window, so that it is asked for once.
struct Workspace {
  Axis axis_x, axis_y;
  std::int64_t row_pairs, pair_stride, plane_stride;
  std::uint8_t *words_x, *words_y, *block, *rows, *first, *second, *lines;
  std::size_t size_bytes;

  Workspace(const CropPlan& plan, std::uint8_t* memory)
      : axis_x{plan.width, plan.resized_width, plan.window_left, plan.output_width, plan.flip, plan.filter},
        axis_y{plan.height, plan.resized_height, plan.window_top, plan.output_height, false, plan.filter} {
    const std::int64_t height = plan.output_height;
    const std::int64_t width = plan.output_width;
    row_pairs = (plan.height + 1 + kBlockRows) / kBlockRows * (kBlockRows / 2);
    pair_stride = 2 * ((width + 7) / 8 * 8) + kSlack;
    plane_stride = (height * width + kSlack + 63) / 64 * 64;
    const Weights all_columns{nullptr, nullptr, nullptr, nullptr, width, 0, 0, plan.width};
    Carver carver(memory);
    words_x = carver.take(weight_words(axis_x) * 4);
    words_y = carver.take(weight_words(axis_y) * 4);
    block = carver.take(resize_rows_scratch(all_columns));
    rows = carver.take(3 * row_pairs * pair_stride);
    first = carver.take(3 * plane_stride);
    second = carver.take(3 * plane_stride);
    lines = carver.take(2 * (width + 2 * kSlack));
    size_bytes = carver.used();
  }
};

std::size_t scratch_bytes(const CropPlan& plan) { return Workspace(plan, nullptr).size_bytes; }

/// A crop that has been checked, with scratch_bytes() of memory.
void make_crop(const AugmentCrop& args, std::uint8_t* memory) {
  const CropPlan& plan = args.plan;
  const Workspace work(plan, memory);
  const Weights x = make_weights(work.axis_x, reinterpret_cast<std::int32_t*>(work.words_x));
  const Weights y = make_weights(work.axis_y, reinterpret_cast<std::int32_t*>(work.words_y));
  const PairedRows paired{work.rows, work.row_pairs * work.pair_stride, work.pair_stride};
  Planes planes{work.first, plan.output_height, plan.output_width, work.plane_stride};
  const auto* image = args.image.as<std::uint8_t>();
  const std::int64_t row_bytes = args.image.extent(1) * 3;
  resize_rows(image + plan.top * row_bytes + 3 * plan.left, row_bytes, image + args.image.size(), y.source_begin,
              y.source_end - y.source_begin, x, paired, work.block);
  resize_columns(paired, y, planes);

  for (int i = 0; i < plan.jitter_steps; ++i) jitter(planes, plan, plan.jitter_order[static_cast<std::size_t>(i)]);
  if (plan.grey) {
    make_grey(planes);
    planes.count = 1;
  }
  if (plan.blur_radius > 0) {
    const BoxBlur blur = make_box_blur(plan.blur_radius);
    blur_rows(planes, blur, work.lines);
    Planes blurred = planes;
    blurred.data = work.second;
    blur_columns(planes, blurred, blur);
    planes = blurred;
  }
  interleave(planes, plan.solarize, args.output.as<std::uint8_t>());
}

}  // namespace

void augment_crop(const AugmentCrop& args, Stream& stream) {
  if (!has_vectors()) return reference::augment_crop(args);
  check_crop(args);
  make_crop(args, static_cast<std::uint8_t*>(stream.scratch(scratch_bytes(args.plan))));
}

void augment_crops(const AugmentCrops& args, Stream& stream) {
  check_crop_tables(args);
  const std::int64_t crops = args.output.extent(0);
  if (!has_vectors()) {
    parallel_items(crops, [&](std::int64_t i) { reference::augment_crop(single_crop(args, i)); });
    return;
  }
  std::size_t most = 0;
  for (const CropPlan& plan : args.plans) most = std::max(most, scratch_bytes(plan));
  most = (most + 63) / 64 * 64;
  auto* const memory =
      static_cast<std::uint8_t*>(stream.scratch(most * static_cast<std::size_t>(omp_get_max_threads())));
  parallel_items(crops, [&](std::int64_t i) {
    make_crop(single_crop(args, i), memory + most * static_cast<std::size_t>(omp_get_thread_num()));
  });
}

}  // namespace dino::cpu
