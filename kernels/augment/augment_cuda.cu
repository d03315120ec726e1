#include "kernels/augment/augment.h"
#include "kernels/augment/augment_block_cuda.h"
#include "kernels/augment/augment_blur_cuda.h"
#include "kernels/augment/augment_colours_cuda.h"
#include "kernels/augment/augment_cpu.h"
#include "kernels/augment/augment_resize_cuda.h"
#include "kernels/common/cuda/launch.h"

#include <algorithm>

// augment_crops: a block makes one crop, from the picture to the finished bytes, and keeps it in shared memory.
//
// Shared memory: the block's state, the sums of the resize weights, the crop (H, W, 3), and working memory, which the
// resize and the blur use in turn. 224 x 224 needs 151 KB and leaves 12 KB of an A100's 163 and 76 KB of an H100's 227;
// of 96 x 96 four blocks share a multiprocessor. A crop that does not fit lives in the output, in L2 cache.
// Steps: augment_resize_cuda.h, augment_colours_cuda.h, augment_blur_cuda.h, then the output, which solarizes.
// Traffic: reads the box once from memory (its rows come from L1 and L2 after that), writes the output once: for a
//   typical 418 x 314 box to 224 x 224, 394 KB and 151 KB. Work: about 2.5 M multiply-adds for its resize, each with a
//   byte's load; 5 M operations for all colour steps; 11 M for a blur. Bound by instructions, loads from shared memory
//   and L1 foremost.
// Numerics: the CPU's results to the last bit. Products that a sum follows are rounded apart (__dmul_rn, __fmul_rn).
// Reference: reference::augment_crops.
namespace dino::cuda {
namespace {

using namespace augment;

struct Crops {
  const std::uint8_t* images;
  const CropPicture* pictures;
  const CropPlan* plans;
  std::uint8_t* output;
  unsigned picture_count;
  int height, width;
  int crop_at, work_at, work_bytes;  // in shared memory
  bool words;                        // the crop's rows, wherever it lives, begin at multiples of 4 bytes
  bool packed;                       // the output can be written in packs of 16 bytes
  unsigned hue_deficit[8];
};

/// Four bytes; x from 128 becomes 255 − x.
__device__ __forceinline__ unsigned solarized(unsigned x) { return x ^ (x >> 7 & 0x01010101U) * 255U; }

__device__ void write_output(const std::uint8_t* crop, int size_bytes, bool solarize, bool packed, std::uint8_t* to) {
  using Bytes = Pack<unsigned, 4>;
  const int packs = packed ? size_bytes / static_cast<int>(sizeof(Bytes)) : 0;
  each(packs, [&](int i) {
    Bytes bytes = reinterpret_cast<const Bytes*>(crop)[i];
    if (solarize) {
#pragma unroll
      for (unsigned& word : bytes.values) word = solarized(word);
    }
    reinterpret_cast<Bytes*>(to)[i] = bytes;
  });
  const int done = packs * static_cast<int>(sizeof(Bytes));
  each(size_bytes - done, [&](int i) {
    const unsigned value = crop[done + i];
    to[done + i] = static_cast<std::uint8_t>(solarize && value >= 128 ? 255 - value : value);
  });
}

/// Block: crop. kInShared: where the crop lives while it is made; else in the output.
template <bool kInShared>
__global__ void __launch_bounds__(kMaxThreads) make_crops(const Crops args) {
  auto& state = shared_memory<BlockState>();
  auto* const shared = &shared_memory<std::uint8_t>();
  auto* const sums_x = reinterpret_cast<double*>(shared + sizeof(BlockState));  // (width), then (height) of y
  double* const sums_y = sums_x + args.width;
  std::uint8_t* const work = shared + args.work_at;
  const int pixels = args.height * args.width;
  std::uint8_t* const output = args.output + std::int64_t{blockIdx.x} * pixels * 3;
  std::uint8_t* const crop = kInShared ? shared + args.crop_at : output;
  const CropPlan& plan = args.plans[blockIdx.x];
  const CropPicture& picture = args.pictures[blockIdx.x % args.picture_count];

  if (threadIdx.x == 0) {
    set_axis(state.x, plan.width, plan.resized_width, plan.window_left, args.width, plan.flip, plan.filter);
    set_axis(state.y, plan.height, plan.resized_height, plan.window_top, args.height, false, plan.filter);
#pragma unroll
    for (int i = 0; i < 8; ++i) state.hue_deficit[i] = args.hue_deficit[i];
  }
  __syncthreads();
  each(args.width + args.height,
       [&](int i) { sums_x[i] = i < args.width ? sum_of_taps(state.x, i) : sum_of_taps(state.y, i - args.width); });
  __syncthreads();

  const std::int64_t pitch = std::int64_t{picture.width} * 3;
  const std::uint8_t* source = args.images + picture.offset + plan.top * pitch + std::int64_t{plan.left} * 3;
  const Tile tile = choose_tile(state.x, state.y, args.work_bytes);
  if (tile.width > 0) {
    resize_tiles(state.x, state.y, sums_x, sums_y, source, pitch, tile, work, crop);
  } else {
    resize_pixels(state.x, state.y, sums_x, sums_y, source, pitch, crop);
  }
  change_colours(plan, state, pixels, crop);
  if (plan.blur_radius > 0) {
    const BoxBlur blur(plan.blur_radius);
    const int row_bytes = 3 * args.width;
    blur_lines<true, Pixel>(blur, args.height, row_bytes, crop, work, args.work_bytes);
    if (args.words && args.work_bytes >= Word::kBytes * args.height) {
      blur_lines<false, Word>(blur, args.height, row_bytes, crop, work, args.work_bytes);
    } else {
      blur_lines<false, Pixel>(blur, args.height, row_bytes, crop, work, args.work_bytes);
    }
  }
  if (kInShared || plan.solarize) write_output(crop, 3 * pixels, plan.solarize, args.packed, output);
}

constexpr std::int64_t kSystemBytes = 1 << 10;  // of each block, taken by CUDA

struct SharedLimits {
  std::int64_t block, multiprocessor;
};

SharedLimits shared_limits(const Stream& stream) {
  const auto block = static_cast<std::int64_t>(most_shared_bytes(stream));
#ifdef __CUDACC__
  int multiprocessor = 0;
  DINO_CUDA(cudaDeviceGetAttribute(&multiprocessor, cudaDevAttrMaxSharedMemoryPerMultiprocessor, stream.ordinal()));
  return {block, multiprocessor};
#else
  return {block, block + kSystemBytes};
#endif
}

constexpr std::int64_t padded(std::int64_t size_bytes) { return (size_bytes + 15) / 16 * 16; }

struct Division {
  bool in_shared = false;
  int threads = 0;
  std::int64_t shared_bytes = 0;
};

/// How blocks share a multiprocessor's 1024 threads (of 64 registers) and its memory: four, two or one, as many as
/// find room for their crops.
Division divide(const SharedLimits& limits, std::int64_t fixed, std::int64_t crop, std::int64_t least_work,
                std::int64_t asked) {
  constexpr std::int64_t kGoodWork = 8 << 10;
  const auto limit_for = [&](int blocks) {
    return std::min(limits.block, limits.multiprocessor / blocks - kSystemBytes);
  };
  if (asked > 0) {
    const std::int64_t limit = std::min(asked, limits.block);
    return {fixed + crop + least_work <= limit, kMaxThreads / 4, limit};
  }
  for (const int blocks : {4, 2, 1}) {
    const std::int64_t limit = limit_for(blocks);
    if (fixed + crop + std::max(least_work, kGoodWork) <= limit) return {true, kMaxThreads / blocks, limit};
  }
  const int blocks = fixed + std::max(least_work, kGoodWork) <= limit_for(2) ? 2 : 1;
  return {false, kMaxThreads / blocks, limit_for(blocks)};
}

}  // namespace

void augment_crops(const AugmentCrops& args, Stream& stream) {
  check_crops(args);
  const std::int64_t height = args.output.extent(1);
  const std::int64_t width = args.output.extent(2);
  const std::int64_t crop = height * width * 3;
  const auto fixed = static_cast<std::int64_t>(padded(sizeof(BlockState) + sizeof(double) * (height + width)));
  const std::int64_t least_work = padded(3 * std::max(width, height));
  const Division division = divide(shared_limits(stream), fixed, padded(crop), least_work, args.shared_bytes);
  require(fixed + least_work <= division.shared_bytes, "augment",
          "a crop's lines must fit into shared memory; got {} x {}, which needs {} bytes, expected at most {}; try "
          "smaller crops",
          height, width, fixed + least_work, division.shared_bytes);
  const std::int64_t work_at = fixed + (division.in_shared ? padded(crop) : 0);
  Crops crops{.images = args.images.as<std::uint8_t>(),
              .pictures = args.pictures.data(),
              .plans = args.plans.data(),
              .output = args.output.as<std::uint8_t>(),
              .picture_count = static_cast<unsigned>(args.pictures.size()),
              .height = static_cast<int>(height),
              .width = static_cast<int>(width),
              .crop_at = static_cast<int>(fixed),
              .work_at = static_cast<int>(work_at),
              .work_bytes = static_cast<int>(division.shared_bytes - work_at),
              .words = 3 * width % Word::kBytes == 0 &&
                       (division.in_shared || reinterpret_cast<std::uintptr_t>(args.output.data()) % Word::kBytes == 0),
              .packed = pack_size<std::uint8_t>(crop, args.output) > 1,
              .hue_deficit = {}};
  for (int i = 0; i < 256; ++i) {
    crops.hue_deficit[i / 32] |= static_cast<unsigned>(cpu::augment::kHueDeficit[i]) << (i % 32);
  }
  launch(division.in_shared ? make_crops<true> : make_crops<false>,
         {static_cast<unsigned>(args.plans.size()), static_cast<unsigned>(division.threads),
          static_cast<std::size_t>(division.shared_bytes)},
         stream, crops);
}

void augment_crop(const AugmentCrop& args, Stream& stream) {
  check_crop(args);
  struct Tables {
    CropPlan plan;
    CropPicture picture;
  };
  const Tables tables{
      args.plan, {0, static_cast<std::int32_t>(args.image.extent(0)), static_cast<std::int32_t>(args.image.extent(1))}};
  auto* const on_device = static_cast<Tables*>(stream.scratch(sizeof(Tables)));
  stream.copy_from_host(on_device, &tables, sizeof(Tables));
  const Shape shape{1, args.output.extent(0), args.output.extent(1), 3};
  cuda::augment_crops({.images = args.image.reshaped({args.image.size()}),
                       .pictures = {&on_device->picture, 1},
                       .plans = {&on_device->plan, 1},
                       .output = args.output.reshaped(shape)},
                      stream);
}

}  // namespace dino::cuda
