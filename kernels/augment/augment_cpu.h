#pragma once

// The parts of the CPU form of augment_crop, each written for every instruction set. Crops are kept as three planes, so
// that neighbouring lanes are neighbouring pixels.

#include "kernels/augment/augment.h"

#include <cstddef>
#include <cstdint>

namespace dino::cpu::augment {

/// False on a processor without any of the instruction sets built for; the oracle then serves as the CPU form.
bool has_vectors();

/// Bytes that a kernel may read or write past the end of a plane or row.
inline constexpr std::int64_t kSlack = 128;

/// Fixed-point weights of one direction. Source pixels are taken in pairs (2i, 2i + 1), the form that the 16-bit
/// multiply-add instructions want. Each 22-bit weight is split, weight = 2^11·high + low with 0 <= low < 2^11; a pair's
/// two highs share one 32-bit word, as do its lows.
struct Weights {
  std::int32_t* first_pair;  // (outputs)
  std::int32_t* pairs;       // (outputs)
  std::int32_t* high;        // (outputs, max_pairs)
  std::int32_t* low;         // (outputs, max_pairs)
  std::int64_t outputs;
  std::int64_t max_pairs;
  std::int64_t source_begin;  // even; first_pair counts from here
  std::int64_t source_end;    // one past the last source pixel used
};

/// One direction of a plan.
struct Axis {
  std::int64_t source, resized, window, outputs;
  bool reversed;
  ResizeFilter filter;
};

/// Number of 32-bit words that make_weights() fills.
std::int64_t weight_words(const Axis& axis);
Weights make_weights(const Axis& axis, std::int32_t* words);

/// Planes R, G, B of a crop, dense; each may be overrun by kSlack.
struct Planes {
  std::uint8_t* data;
  std::int64_t height, width;
  std::int64_t stride;  // bytes from plane to plane
  int count = 3;        // 1 when the crop is grey

  std::uint8_t* plane(int c) const { return data + c * stride; }
  std::int64_t size() const { return height * width; }
};

/// Rows of the resized picture between the two passes: (3, row pairs, x, 2) bytes.
struct PairedRows {
  std::uint8_t* data;
  std::int64_t plane_stride;
  std::int64_t pair_stride;
};

inline constexpr std::int64_t kBlockRows = 8;
/// Bytes of scratch of resize_rows().
std::int64_t resize_rows_scratch(const Weights& x);

/// Along x: rows [first, first + count) of the picture, whose rows are `row_bytes` apart and start at the box's left
/// border; `image_end` is one past the last byte that may be read.
void resize_rows(const std::uint8_t* box, std::int64_t row_bytes, const std::uint8_t* image_end, std::int64_t first,
                 std::int64_t count, const Weights& x, const PairedRows& rows, std::uint8_t* scratch);
/// Along y.
void resize_columns(const PairedRows& rows, const Weights& y, const Planes& planes);

/// In place; from + factor·(x − from).
void blend_with_constant(const Planes& planes, float from, float factor);
void blend_with_grey(const Planes& planes, float factor);
std::int64_t sum_of_grey(const Planes& planes);
void shift_hue(const Planes& planes, int shift);
/// The first plane becomes the grey values.
void make_grey(const Planes& planes);
/// Writes (height, width, 3) bytes; inverts values from 128 if asked to. A single plane serves all three channels.
void interleave(const Planes& planes, bool solarize, std::uint8_t* output);

/// Extended box blur: the 2·radius + 1 pixels in the middle count `weight`, one more on either side `border_weight`, in
/// 2^-24.
struct BoxBlur {
  int radius;
  std::int32_t weight, border_weight;
};
inline constexpr int kMaxBoxRadius = 60;
BoxBlur make_box_blur(float sigma);
/// Three times along x, in place; `scratch` has 2·(width + 2·kSlack) bytes.
void blur_rows(const Planes& planes, const BoxBlur& blur, std::uint8_t* scratch);
/// Three times along y; the result is in `other`, `planes` is overwritten.
void blur_columns(const Planes& planes, const Planes& other, const BoxBlur& blur);

/// 1 where Pillow's fp32 arithmetic yields the hue below an exact multiple of 1/255 turn.
extern const std::int32_t kHueDeficit[256];

}  // namespace dino::cpu::augment
