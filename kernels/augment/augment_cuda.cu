#include "kernels/augment/augment.h"
#include "kernels/augment/augment_cpu.h"
#include "kernels/common/cuda/launch.h"

#include <algorithm>

// augment_crops: a block makes one crop, from the picture to the finished bytes, and keeps it in shared memory.
//
// Shared memory: the block's state, the sums of the resize weights, the crop (H, W, 3), and working memory, which the
// resize and the blur use in turn. 224 x 224 needs 151 KB and leaves 12 KB of an A100's 163 and 76 KB of an H100's 227;
// of 96 x 96 four blocks share a multiprocessor. A crop that does not fit lives in the output, in L2 cache.
// Resize: the output is cut into tiles. For each, the weights of its columns and rows are computed in double, as Pillow
//   does, then the rows of the box that it needs are resized along x into working memory, then along y into the crop.
//   Rows shared by two bands of tiles are resized twice: 4 / (rows of a band) more work. The tile's size follows from
//   the box and the working memory; where not even one pixel fits, each thread computes its pixel's weights as it goes.
// Colours: a thread per pixel runs all steps up to the next contrast, whose mean is a sum over the block in integers.
// Blur: strips of lines pass three times between the crop and working memory; threads slide along parts of lines, down
//   the columns four bytes at a time.
// Traffic: reads the box once from memory (its rows come from L1 and L2 after that), writes the output once: for a
//   typical 418 x 314 box to 224 x 224, 394 KB and 151 KB. Work: about 2.5 M multiply-adds for its resize, each with a
//   byte's load; 5 M operations for all colour steps; 11 M for a blur. Bound by instructions, loads from shared memory
//   and L1 foremost.
// Numerics: the CPU's results to the last bit. Products that a sum follows are rounded apart (__dmul_rn, __fmul_rn).
// Reference: reference::augment_crops.
namespace dino::cuda {
namespace {

constexpr int kMaxThreads = 1024;
constexpr int kWeightBits = 22;
constexpr int kMaxTileWidth = 64;

/// One direction of the resize.
struct Axis {
  double scale, support, shrink;
  int source, window, outputs;
  int taps;  // the most that an output has
  bool copied, reversed, bicubic;
};

struct BlockState {
  Axis x, y;
  unsigned warp_sums[kMaxThreads / kWarpSize];
  unsigned hue_deficit[8];  // kHueDeficit, one bit each
};

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

/// Calls body(i) for the block's share of 0 … count - 1; neighbouring threads get neighbours.
template <typename Body>
__device__ __forceinline__ void each(int count, const Body& body) {
  for (int i = static_cast<int>(threadIdx.x); i < count; i += static_cast<int>(blockDim.x)) body(i);
}

// --- Resize ---

__device__ void set_axis(Axis& axis, int source, int resized, int window, int outputs, bool reversed,
                         ResizeFilter filter) {
  axis.copied = source == resized;
  axis.bicubic = filter == ResizeFilter::bicubic;
  axis.reversed = reversed;
  axis.source = source;
  axis.window = window;
  axis.outputs = outputs;
  axis.scale = static_cast<double>(source) / static_cast<double>(resized);
  const double stretch = axis.scale > 1.0 ? axis.scale : 1.0;
  axis.support = axis.copied ? 0.0 : (axis.bicubic ? 2.0 : 1.0) * stretch;
  axis.shrink = 1.0 / stretch;
  axis.taps = axis.copied ? 1 : std::min(source, 2 * static_cast<int>(ceil(axis.support)) + 1);
}

/// The source pixels [begin, end) of one output, and where it lies among them.
struct Taps {
  double center;
  int begin, end;
};

__device__ __forceinline__ Taps taps_of(const Axis& axis, int output) {
  const int at = axis.window + (axis.reversed ? axis.outputs - 1 - output : output);
  Taps taps;
  taps.center = __dmul_rn(static_cast<double>(at) + 0.5, axis.scale);
  taps.begin = axis.copied ? at : std::max(0, static_cast<int>(taps.center - axis.support + 0.5));
  taps.end = axis.copied ? at + 1 : std::min(axis.source, static_cast<int>(taps.center + axis.support + 0.5));
  return taps;
}

/// The same factored polynomials as Pillow's.
__device__ __forceinline__ double filter_value(const Axis& axis, double center, int source) {
  if (axis.copied) return 1.0;
  const double x = fabs(__dmul_rn(static_cast<double>(source) - center + 0.5, axis.shrink));
  if (!axis.bicubic) return x < 1.0 ? 1.0 - x : 0.0;
  if (x < 1.0) return __dmul_rn(__dmul_rn(__dmul_rn(1.5, x) - 2.5, x), x) + 1.0;
  if (x < 2.0) return __dmul_rn(__dmul_rn(__dmul_rn(x - 5.0, x) + 8.0, x) - 4.0, -0.5);
  return 0.0;
}

__device__ __forceinline__ int weight_of(const Axis& axis, double center, double sum, int source) {
  const double value = __dmul_rn(filter_value(axis, center, source) / sum, 1 << kWeightBits);
  return static_cast<int>(value < 0 ? value - 0.5 : value + 0.5);
}

/// In the order of the pixels, which the last bit depends on.
__device__ double sum_of_taps(const Axis& axis, int output) {
  const Taps taps = taps_of(axis, output);
  double sum = 0;
  for (int i = taps.begin; i < taps.end; ++i) sum += filter_value(axis, taps.center, i);
  return sum;
}

__device__ __forceinline__ int rounded(int sum) { return std::min(std::max(sum >> kWeightBits, 0), 255); }

/// Weights of `count` outputs in working memory.
struct Table {
  int* weights;  // (taps, count)
  int* begins;   // (count)
  int* counts;   // (count)
  int count;

  __device__ Table(int* words, int taps, int outputs)
      : weights(words), begins(words + taps * outputs), counts(begins + outputs), count(outputs) {}
  __device__ int* end() const { return counts + count; }

  __device__ void fill(const Axis& axis, const double* sums, int first) const {
    each(count * axis.taps, [&](int i) {
      const int tap = i / count;
      const int output = i - tap * count;
      const Taps taps = taps_of(axis, first + output);
      if (tap == 0) {
        begins[output] = taps.begin;
        counts[output] = taps.end - taps.begin;
      }
      if (taps.begin + tap < taps.end) {
        weights[i] = weight_of(axis, taps.center, sums[first + output], taps.begin + tap);
      }
    });
  }

  /// Three channels of output i: pixels `step` bytes apart from `from` on.
  __device__ __forceinline__ void weigh(int i, const std::uint8_t* from, int step, std::uint8_t* to) const {
    int r = 1 << (kWeightBits - 1);
    int g = r;
    int b = r;
    const int* weight = weights + i;
    for (int left = counts[i]; left > 0; --left, from += step, weight += count) {
      r += *weight * from[0];
      g += *weight * from[1];
      b += *weight * from[2];
    }
    to[0] = static_cast<std::uint8_t>(rounded(r));
    to[1] = static_cast<std::uint8_t>(rounded(g));
    to[2] = static_cast<std::uint8_t>(rounded(b));
  }
};

struct Tile {
  int width, height;
};

/// The widest tile, at least as high as wide if it can be, whose tables and rows fit into working memory; width 0: none
/// does. n outputs along y need at most (n - 1) · scale + 2 · support + 1 rows; two more make up for fp32's rounding.
__device__ Tile choose_tile(const Axis& x, const Axis& y, int work_bytes) {
  const auto scale = static_cast<float>(y.scale);
  const float more_rows = 2 * static_cast<float>(y.support) + 3;
  for (int width = kMaxTileWidth; width > 0; width /= 2) {
    const int columns = std::min(width, x.outputs);
    const auto row_bytes = static_cast<float>(3 * columns);
    const float fixed = static_cast<float>(columns) * static_cast<float>(4 * (x.taps + 2)) + more_rows * row_bytes;
    const float per_output = static_cast<float>(4 * (y.taps + 2)) + scale * row_bytes;
    const float height = (static_cast<float>(work_bytes) - fixed) / per_output;
    if (height >= static_cast<float>(std::min(width, y.outputs))) {
      return {columns, static_cast<int>(std::min(height, static_cast<float>(y.outputs)))};
    }
  }
  return {0, 0};
}

/// `source` is the box's first byte, `pitch` the bytes from row to row. Ends with a barrier.
__device__ void resize_tiles(const Axis& x, const Axis& y, const double* sums_x, const double* sums_y,
                             const std::uint8_t* source, std::int64_t pitch, const Tile& tile, std::uint8_t* work,
                             std::uint8_t* crop) {
  for (int top = 0; top < y.outputs; top += tile.height) {
    const int height = std::min(tile.height, y.outputs - top);
    const Table rows(reinterpret_cast<int*>(work), y.taps, height);
    rows.fill(y, sums_y, top);
    const int first_row = taps_of(y, top).begin;
    const int row_count = taps_of(y, top + height - 1).end - first_row;
    const std::uint8_t* band = source + first_row * pitch;
    for (int left = 0; left < x.outputs; left += tile.width) {
      const int width = std::min(tile.width, x.outputs - left);
      const Table columns(rows.end(), x.taps, width);
      columns.fill(x, sums_x, left);
      auto* resized = reinterpret_cast<std::uint8_t*>(columns.end());  // (row_count, width, 3)
      __syncthreads();
      each(row_count * width, [&](int i) {
        const int row = i / width;
        const int column = i - row * width;
        columns.weigh(column, band + row * pitch + 3 * columns.begins[column], 3, resized + 3 * i);
      });
      __syncthreads();
      each(height * width, [&](int i) {
        const int row = i / width;
        const int column = i - row * width;
        rows.weigh(row, resized + 3 * ((rows.begins[row] - first_row) * width + column), 3 * width,
                   crop + 3 * ((top + row) * x.outputs + left + column));
      });
      __syncthreads();
    }
  }
}

/// Without working memory: weights are computed where they are needed. Ends with a barrier.
__device__ void resize_pixels(const Axis& x, const Axis& y, const double* sums_x, const double* sums_y,
                              const std::uint8_t* source, std::int64_t pitch, std::uint8_t* crop) {
  each(y.outputs * x.outputs, [&](int i) {
    const int row = i / x.outputs;
    const int column = i - row * x.outputs;
    const Taps down = taps_of(y, row);
    const Taps across = taps_of(x, column);
    constexpr int kHalf = 1 << (kWeightBits - 1);
    int sum[3] = {kHalf, kHalf, kHalf};
#pragma unroll 1
    for (int from_y = down.begin; from_y < down.end; ++from_y) {
      int part[3] = {kHalf, kHalf, kHalf};
#pragma unroll 1  // registers are short
      for (int from_x = across.begin; from_x < across.end; ++from_x) {
        const int weight = weight_of(x, across.center, sums_x[column], from_x);
        const std::uint8_t* from = source + from_y * pitch + 3 * from_x;
#pragma unroll
        for (int c = 0; c < 3; ++c) part[c] += weight * from[c];
      }
      const int weight = weight_of(y, down.center, sums_y[row], from_y);
#pragma unroll
      for (int c = 0; c < 3; ++c) sum[c] += weight * rounded(part[c]);
    }
#pragma unroll
    for (int c = 0; c < 3; ++c) crop[3 * i + c] = static_cast<std::uint8_t>(rounded(sum[c]));
  });
  __syncthreads();
}

// --- Colours ---

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
__device__ int mean_of(unsigned sum, int count, unsigned* warp_sums) {
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
__device__ void change_colours(const CropPlan& plan, BlockState& state, int pixels, std::uint8_t* crop) {
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

// --- Blur ---

/// As cpu::augment::make_box_blur, rounding as it does.
struct BoxBlur {
  int radius;
  unsigned weight, border_weight;  // in 2^-24

  __device__ explicit BoxBlur(float sigma) {
    const float variance = __fmul_rn(sigma, sigma) / 3.0F;
    const auto length = static_cast<float>(sqrt(__dmul_rn(12.0, static_cast<double>(variance)) + 1.0));
    const auto whole = static_cast<float>(floor((static_cast<double>(length) - 1.0) / 2.0));
    const float next = whole + 1.0F;
    float fraction = __fmul_rn(2.0F * whole + 1.0F, __fadd_rn(__fmul_rn(whole, next), -__fmul_rn(3.0F, variance)));
    fraction /= __fmul_rn(6.0F, __fadd_rn(variance, -__fmul_rn(next, next)));
    const float exact = whole + fraction;
    radius = static_cast<int>(exact);
    weight = static_cast<unsigned>(static_cast<float>(1 << 24) / __fadd_rn(__fmul_rn(exact, 2.0F), 1.0F));
    border_weight = ((1U << 24) - static_cast<unsigned>(radius * 2 + 1) * weight) / 2;
  }
};

/// Up to four bytes side by side, as sums of 16 bits: two in `even`, two in `odd`. 123 bytes stay below 2^15.
struct Sums {
  unsigned even, odd;

  __device__ __forceinline__ void add(const Sums& other) {
    even += other.even;
    odd += other.odd;
  }
  __device__ __forceinline__ void subtract(const Sums& other) {
    even -= other.even;
    odd -= other.odd;
  }
};

/// What a blur takes at once: four bytes of a row, at a multiple of four, …
struct Word {
  static constexpr int kBytes = 4;
  static __device__ __forceinline__ Sums load(const std::uint8_t* from) {
    const unsigned bytes = *reinterpret_cast<const unsigned*>(from);
    return {bytes & 0x00ff00ffU, bytes >> 8 & 0x00ff00ffU};
  }
  /// Bytes in `even` and `odd`.
  static __device__ __forceinline__ void store(const Sums& bytes, std::uint8_t* to) {
    *reinterpret_cast<unsigned*>(to) = bytes.even | bytes.odd << 8;
  }
};

/// … or a pixel.
struct Pixel {
  static constexpr int kBytes = 3;
  static __device__ __forceinline__ Sums load(const std::uint8_t* from) {
    return {from[0] | unsigned{from[2]} << 16, from[1]};
  }
  static __device__ __forceinline__ void store(const Sums& bytes, std::uint8_t* to) {
    to[0] = static_cast<std::uint8_t>(bytes.even);
    to[1] = static_cast<std::uint8_t>(bytes.odd);
    to[2] = static_cast<std::uint8_t>(bytes.even >> 16);
  }
};

/// The distances, in bytes, from line to line and from place to place of a line.
struct Lines {
  int across, along;
};

/// Two box means of 16 bits each.
__device__ __forceinline__ unsigned weigh_pair(const BoxBlur& blur, unsigned inner, unsigned border) {
  const auto mean = [&](unsigned in, unsigned out) {
    return (in * blur.weight + out * blur.border_weight + (1U << 23)) >> 24;
  };
  return mean(inner & 0xffffU, border & 0xffffU) | mean(inner >> 16, border >> 16) << 16;
}

/// Blurs `count` lines of `places` once. Each thread slides over a part of a line. Ends with a barrier.
template <bool kAlongX, typename Element>
__device__ __forceinline__ void blur_once(const BoxBlur& blur, int count, int places, const std::uint8_t* from,
                                          const Lines& from_lines, std::uint8_t* to, const Lines& to_lines) {
  const int wanted = std::max(1, static_cast<int>(blockDim.x) / count);
  const int length = (places + wanted - 1) / wanted;
  const int parts = (places + length - 1) / length;
  each(count * parts, [&](int i) {
    // Neighbouring threads work side by side: in one row.
    const int line = kAlongX ? i / parts : i % count;
    const int begin = (kAlongX ? i % parts : i / count) * length;
    const int end = std::min(begin + length, places);
    const std::uint8_t* source = from + line * from_lines.across;
    std::uint8_t* target = to + line * to_lines.across;
    const auto tap = [&](int at) {
      return Element::load(source + std::min(std::max(at, 0), places - 1) * from_lines.along);
    };
    // Where the window ends for the place before the first.
    Sums inner{0, 0};
    for (int at = begin - 1 - blur.radius; at < begin + blur.radius; ++at) inner.add(tap(at));
    Sums entering = tap(begin + blur.radius);
    for (int at = begin; at < end; ++at) {
      const Sums before = tap(at - blur.radius - 1);
      const Sums after = tap(at + blur.radius + 1);
      inner.add(entering);
      inner.subtract(before);
      Element::store(
          {weigh_pair(blur, inner.even, before.even + after.even), weigh_pair(blur, inner.odd, before.odd + after.odd)},
          target + at * to_lines.along);
      entering = after;
    }
  });
  __syncthreads();
}

/// Three times along one direction, in strips of whole lines that fit into working memory. Ends with a barrier.
template <bool kAlongX, typename Element>
__device__ void blur_lines(const BoxBlur& blur, int height, int row_bytes, std::uint8_t* crop, std::uint8_t* work,
                           int work_bytes) {
  const int elements = row_bytes / Element::kBytes;  // of a row
  const int lines = kAlongX ? height : elements;
  const int places = kAlongX ? elements : height;
  const int most = work_bytes / (places * Element::kBytes);
  for (int first = 0; first < lines; first += most) {
    const int count = std::min(most, lines - first);
    const int pitch = (kAlongX ? elements : count) * Element::kBytes;  // of the strip's rows in working memory
    const auto lines_of = [](int bytes) {
      return kAlongX ? Lines{bytes, Element::kBytes} : Lines{Element::kBytes, bytes};
    };
    const Lines in_crop = lines_of(row_bytes);
    const Lines in_work = lines_of(pitch);
    std::uint8_t* strip = crop + first * in_crop.across;
    blur_once<kAlongX, Element>(blur, count, places, strip, in_crop, work, in_work);
    blur_once<kAlongX, Element>(blur, count, places, work, in_work, strip, in_crop);
    blur_once<kAlongX, Element>(blur, count, places, strip, in_crop, work, in_work);
    each(count * places, [&](int i) {
      const int in_row = kAlongX ? places : count;
      const int row = i / in_row;
      const int byte = (i - row * in_row) * Element::kBytes;
      Element::store(Element::load(work + row * pitch + byte), strip + row * row_bytes + byte);
    });
    __syncthreads();
  }
}

// --- Output ---

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

struct SharedLimits {
  std::int64_t block, multiprocessor;
};

SharedLimits shared_limits([[maybe_unused]] const Stream& stream) {
#ifdef __CUDACC__
  const auto attribute = [&](cudaDeviceAttr name) {
    int value = 0;
    const cudaError_t status = cudaDeviceGetAttribute(&value, name, stream.ordinal());
    require(status == cudaSuccess, "augment", "cudaDeviceGetAttribute failed on device {}: {}", stream.ordinal(),
            cudaGetErrorString(status));
    return std::int64_t{value};
  };
  return {attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin), attribute(cudaDevAttrMaxSharedMemoryPerMultiprocessor)};
#else
  return {227 << 10, 228 << 10};  // sm_90
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
  constexpr std::int64_t kSystemBytes = 1 << 10;  // of each block, taken by CUDA
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
