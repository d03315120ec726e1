#pragma once

#include "kernels/augment/augment.h"
#include "kernels/augment/augment_block_cuda.h"

#include <algorithm>
#include <cstdint>

// A crop's jitter and grey: a thread per pixel runs all steps up to the next contrast, whose mean is a sum over the
// block in integers. What writes the crop solarizes.

namespace dino::cuda::augment {

__device__ __forceinline__ int grey_of(const int (&p)[3]) {
  return (19595 * p[0] + 38470 * p[1] + 7471 * p[2] + 32768) >> 16;
}

/// from + factor · (to − from), product and sum rounded apart, truncated and clipped.
__device__ __forceinline__ int blend(int from, int to, float factor) {
  const float value = __fadd_rn(static_cast<float>(from), __fmul_rn(factor, static_cast<float>(to - from)));
  return static_cast<int>(fminf(fmaxf(value, 0.0F), 255.0F));
}

/// One colour's value: round(v · (1 − s/255 · w)), where w is 1 far from the colour's own hue, 0 near it, and linear in
/// between. 255 turns are 510 steps of 1/85 sector; `offset` is 85 · (5, 3, 1) for red, green, blue. In whole numbers.
__device__ __forceinline__ int colour_value(int hue_steps, int saturation, int value, int offset) {
  int step = hue_steps + offset;
  if (step >= 510) step -= 510;
  const int weight = std::max(0, std::min(std::min(step, 340 - step), 85));
  // 21675 = 85 · 255; the quotient is never a tie.
  return (2 * value * (21675 - saturation * weight) + 21675) / 43350;
}

__device__ __forceinline__ void shift_hue(int (&p)[3], int shift, const unsigned* deficit) {
  const int high = std::max(p[0], std::max(p[1], p[2]));
  const int range = high - std::min(p[0], std::min(p[1], p[2]));
  if (range == 0) return;
  // In sixths of a turn, times the range.
  int sixths = p[0] == high ? p[1] - p[2] : p[1] == high ? 2 * range + p[2] - p[0] : 4 * range + p[0] - p[1];
  if (sixths < 0) sixths += 6 * range;
  const int scaled = 85 * sixths;  // 255/6 = 85/2
  int hue = scaled / (2 * range);
  if (hue * 2 * range == scaled) hue -= static_cast<int>(deficit[hue / 32] >> (hue % 32) & 1U);
  const int hue_steps = 2 * ((hue + shift) & 255);
  const int saturation = 255 * range / high;
  p[0] = colour_value(hue_steps, saturation, high, 425);
  p[1] = colour_value(hue_steps, saturation, high, 255);
  p[2] = colour_value(hue_steps, saturation, high, 85);
}

struct Colours {
  float brightness, contrast, saturation;
  int hue_shift;
  const unsigned* hue_deficit;
  int mean = 0;  // for contrast

  __device__ __forceinline__ void apply(JitterStep step, int (&p)[3]) const {
    if (step == JitterStep::hue) {
      shift_hue(p, hue_shift, hue_deficit);
      return;
    }
    const float factor = step == JitterStep::brightness ? brightness
                         : step == JitterStep::contrast ? contrast
                                                        : saturation;
    const int from = step == JitterStep::brightness ? 0 : step == JitterStep::contrast ? mean : grey_of(p);
#pragma unroll
    for (int c = 0; c < 3; ++c) p[c] = blend(from, p[c], factor);
  }
};

/// Rounded mean over the block of what the threads' sums, each below 2^27, add up to.
inline __device__ int mean_of(unsigned sum, int count, unsigned* warp_sums) {
#pragma unroll
  for (int distance = kWarpSize / 2; distance > 0; distance /= 2) sum += __shfl_xor_sync(kWholeWarp, sum, distance);
  if (threadIdx.x % kWarpSize == 0) warp_sums[threadIdx.x / kWarpSize] = sum;
  __syncthreads();
  std::uint64_t total = 0;
  for (unsigned warp = 0; warp < blockDim.x / kWarpSize; ++warp) total += warp_sums[warp];
  __syncthreads();
  const auto n = static_cast<std::uint64_t>(count);
  return static_cast<int>((2 * total + n) / (2 * n));
}

/// Jitter and grey. Each thread has its own pixels throughout. Ends with a barrier.
inline __device__ void change_colours(const CropPlan& plan, BlockState& state, int pixels, std::uint8_t* crop) {
  const int steps = plan.jitter_steps;
  const bool grey = plan.grey;
  if (steps == 0 && !grey) return;
  JitterStep order[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) order[i] = plan.jitter_order[static_cast<std::size_t>(i)];
  const auto is_contrast = [&](int i) {
    return plan.jitter_order[static_cast<std::size_t>(i)] == JitterStep::contrast;
  };
  Colours colours{plan.brightness, plan.contrast, plan.saturation, static_cast<int>(plan.hue * 255.0),
                  state.hue_deficit};
  // From the start, or a contrast whose mean is known, to the next contrast.
  int begin = 0;
  bool measured = false;
  do {
    int end = begin + (measured ? 1 : 0);
    while (end < steps && !is_contrast(end)) ++end;
    const bool last = end == steps;
    unsigned sum = 0;
    each(pixels, [&](int i) {
      int p[3] = {crop[3 * i], crop[3 * i + 1], crop[3 * i + 2]};
#pragma unroll
      for (int step = 0; step < 4; ++step) {
        if (step >= begin && step < end) colours.apply(order[step], p);
      }
      if (!last || grey) {
        const int value = grey_of(p);
        sum += static_cast<unsigned>(value);
        if (last) p[0] = p[1] = p[2] = value;
      }
#pragma unroll
      for (int c = 0; c < 3; ++c) crop[3 * i + c] = static_cast<std::uint8_t>(p[c]);
    });
    if (!last) colours.mean = mean_of(sum, pixels, state.warp_sums);
    measured = true;
    begin = end;
  } while (begin < steps);
  __syncthreads();
}

}  // namespace dino::cuda::augment
