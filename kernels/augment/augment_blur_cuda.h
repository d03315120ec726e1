#pragma once

#include "kernels/augment/augment_block_cuda.h"

#include <algorithm>
#include <cstdint>

// A crop's blur: strips of lines pass three times between the crop and working memory; threads slide along parts of
// lines, down the columns four bytes at a time.

namespace dino::cuda::augment {

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

}  // namespace dino::cuda::augment
