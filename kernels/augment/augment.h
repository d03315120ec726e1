#pragma once

#include "kernels/common/array.h"
#include "kernels/common/operation.h"

#include <array>
#include <cstdint>
#include <span>

namespace dino {

/// Both are antialiased: their support grows with the factor of a reduction.
enum class ResizeFilter : std::uint8_t { bilinear, bicubic };  // bicubic: a = -0.5

enum class JitterStep : std::uint8_t { brightness, contrast, saturation, hue };

/// How one crop is cut from a picture and altered; plain numbers, drawn elsewhere. The steps run in the order of the
/// members. All lengths are pixels.
struct CropPlan {
  int top = 0, left = 0, height = 0, width = 0;  // the box that is cut from the picture; pixels outside are not seen
  int resized_height = 0, resized_width = 0;     // the size to which the box is resized
  int window_top = 0, window_left = 0;           // the part of the resized box that is kept …
  int output_height = 0, output_width = 0;       // … and its size
  ResizeFilter filter = ResizeFilter::bicubic;
  bool flip = false;     // left to right
  int jitter_steps = 0;  // the first so many of jitter_order run
  std::array<JitterStep, 4> jitter_order{JitterStep::brightness, JitterStep::contrast, JitterStep::saturation,
                                         JitterStep::hue};
  float brightness = 1, contrast = 1, saturation = 1;  // factors, 1 changes nothing
  double hue = 0;                                      // in turns, within [-0.5, 0.5]
  bool grey = false;
  float blur_radius = 0;  // standard deviation of the Gaussian; 0 is none
  bool solarize = false;  // inverts values from 128
};

/// Cuts, resizes and alters one crop, in 8 bits per step as Pillow (9.4) and torchvision (0.14) do, to the last bit.
///
/// Resize: along x, then along y, each rounded to 8 bits. An output pixel is the sum of source pixels with 22-bit
///   fixed-point weights, plus one half, shifted and clipped. A direction whose size stays is not resampled.
/// Brightness, contrast, saturation: a + f·(x − a) in fp32, product and sum each rounded, then truncated and clipped to
///   0..255; a is 0, the rounded mean of the grey picture, or the pixel's grey value.
/// Grey: (19595 R + 38470 G + 7471 B + 32768) >> 16.
/// Hue: to 8-bit HSV, H + trunc(255·hue) modulo 256, and back. H and S are truncated quotients in fp32, RGB is rounded.
/// Blur: three extended box blurs along x, then along y, each in 24-bit fixed point rounded to 8 bits, borders
/// repeated. Solarize: x < 128 ? x : 255 − x.
///
/// One picture at a time on the calling thread: whoever loads data has a thread (and a stream) per picture.
/// Traffic: reads the box once; about 3 + 2·steps bytes per output value within the cache.
/// Source: Pillow's src/libImaging (Resample, Blend, Convert, BoxBlur), torchvision's functional_pil; DINO's
/// DataAugmentationDINO (main_dino.py) for the order of the steps.
struct AugmentCrop {
  ConstArray image;  // (H, W, 3) uint8, RGB
  CropPlan plan;
  Array output;  // (output_height, output_width, 3) uint8, RGB; must not overlap image
};
DINO_OPERATION(augment_crop, AugmentCrop)

/// A decoded picture within the buffer that holds those of a whole batch.
struct CropPicture {
  std::int64_t offset = 0;  // of its first byte
  std::int32_t height = 0, width = 0;
};

/// All crops of one size of a batch, each as augment_crop makes it, to the last bit. Crop i is cut from picture i % B:
/// crops are view-major. The plans are read on the device, so that a launch depends on the number and the size of the
/// crops only, and the same buffers serve every batch.
///
/// Crops leave in 8 bits, and patchify normalises them (docs/adr/0002). Writing bf16 patches here instead would save a
/// write and a read of every byte: 1 MB an image for DINO's ten crops, 0.25 us at 4.3 TB/s of the 143 us that a step
/// may take an image at 7,000 images/s. It does not pay for a second form of the output.
/// Traffic: reads each box once, as long as what its rows share stays in cache; writes the output once.
struct AugmentCrops {
  ConstArray images;                      // (bytes) uint8: pictures of (height, width, 3), RGB, anywhere in it
  std::span<const CropPicture> pictures;  // (B), on the stream's device
  std::span<const CropPlan> plans;        // (n), on the stream's device; n a multiple of B
  Array output;                           // (n, H, W, 3) uint8, RGB; H and W are every plan's output size
  /// CUDA: shared memory that a block may take, in bytes; 0: what suits the device. A crop that does not fit into it
  /// lives in `output` while it is made. Changes the speed only.
  std::int64_t shared_bytes = 0;
};
DINO_OPERATION(augment_crops, AugmentCrops)

/// Throws Error unless the plan fits the picture and the output.
void check_crop(const AugmentCrop& args);
/// Throws Error unless types and shapes are as declared above.
void check_crops(const AugmentCrops& args);
/// check_crop() for each of the crops, whose tables are on the host. CUDA kernels cannot check what is on the device:
/// whoever copies tables there calls this first.
void check_crop_tables(const AugmentCrops& args);
/// Crop i alone, where the tables are on the host.
AugmentCrop single_crop(const AugmentCrops& args, std::int64_t i);

}  // namespace dino
