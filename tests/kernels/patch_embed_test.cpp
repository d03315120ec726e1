#include "kernels/patch_embed/patch_embed.h"
#include "tests/support/catch.h"
#include "tests/support/every_stream.h"
#include "tests/support/host_array.h"

#include <omp.h>

using namespace dino;
using namespace dino::test;

namespace {

HostArray random_pixels(const Shape& shape, int misalign) {
  HostArray result(DType::uint8, shape, misalign);
  Random random(7, RandomStream::test);
  for (std::int64_t i = 0; i < result.size(); ++i)
    result.as<std::uint8_t>()[i] = static_cast<std::uint8_t>(random.below(256));
  return result;
}

struct Size {
  std::int64_t images, height, width, patch;
};

double tolerance_of(DType dtype) { return dtype == DType::float32 ? 1e-6 : 0x1p-8; }

}  // namespace

static void check_patchify(Stream& stream);
TEST_CASE("patchify agrees with the oracle", "[device]") { every_stream(check_patchify); }
static void check_patchify(Stream& stream) {
  // One pixel, an odd patch, several chunks of pixels, DINO's sizes.
  for (const Size& size : {Size{1, 1, 1, 1}, Size{2, 6, 9, 3}, Size{1, 14, 28, 14}, Size{1, 14, 1050, 7},
                           Size{3, 96, 96, 16}, Size{2, 64, 96, 8}, Size{1, 224, 224, 16}}) {
    const std::int64_t rows = size.images * (size.height / size.patch) * (size.width / size.patch);
    const Shape shape{rows, 3 * size.patch * size.patch};
    for (const DType dtype : {DType::float32, DType::bfloat16}) {
      for (const int misalign : {0, 1}) {
        const HostArray pixels = random_pixels({size.images, size.height, size.width, 3}, misalign);
        const HostArray values =
            random_normal(DType::float32, {size.images, 3, size.height, size.width}, 1, 1.0, 0.0, misalign);
        for (const ConstArray& images : {ConstArray(pixels), ConstArray(values)}) {
          HostArray patches(dtype, shape, misalign);
          HostArray expected(DType::float64, shape);
          Patchify args{.images = images,
                        .patches = patches,
                        .patch_px = size.patch,
                        .mean = {0.485F, 0.456F, 0.406F},
                        .std = {0.229F, 0.224F, 0.225F}};
          patchify(args, stream);
          args.patches = expected;
          reference::patchify(args);
          check_close(patches, expected, tolerance_of(dtype), "patches");
        }
      }
    }
  }
}

static void check_order(Stream& stream);
TEST_CASE("patchify orders channels, rows and columns as a convolution's weight", "[device]") {
  every_stream(check_order);
}
static void check_order(Stream& stream) {
  // One image of 2 × 4 pixels, value = 100·channel + 10·y + x, in patches of 2.
  HostArray images(DType::float32, {1, 3, 2, 4});
  for (int c = 0; c < 3; ++c) {
    for (int y = 0; y < 2; ++y) {
      for (int x = 0; x < 4; ++x) images.set((c * 2 + y) * 4 + x, 100 * c + 10 * y + x);
    }
  }
  HostArray patches(DType::float32, {2, 12});
  patchify({.images = images, .patches = patches, .patch_px = 2}, stream);
  check_close(patches, from_values(DType::float64, {2, 12}, {0, 1, 10, 11, 100, 101, 110, 111, 200, 201, 210, 211,  //
                                                             2, 3, 12, 13, 102, 103, 112, 113, 202, 203, 212, 213}),
              0.0, "patches");
}

TEST_CASE("patchify refuses what does not fit") {
  const auto stream = make_cpu_stream();
  HostArray patches(DType::float32, {4, 48});
  const HostArray wide(DType::float32, {1, 3, 8, 9});
  const HostArray grey(DType::float32, {1, 1, 8, 8});
  const HostArray doubles(DType::float64, {1, 3, 8, 8});
  CHECK_THROWS_AS(patchify({.images = wide, .patches = patches, .patch_px = 4}, *stream), Error);
  CHECK_THROWS_AS(patchify({.images = grey, .patches = patches, .patch_px = 4}, *stream), Error);
  CHECK_THROWS_AS(patchify({.images = doubles, .patches = patches, .patch_px = 4}, *stream), Error);
}

static void check_tokens(Stream& stream);
TEST_CASE("assemble_tokens agrees with the oracle", "[device]") { every_stream(check_tokens); }
static void check_tokens(Stream& stream) {
  struct Case {
    std::int64_t count, length, width;
  };
  for (const Case& c : {Case{1, 1, 1}, Case{3, 2, 7}, Case{5, 37, 33}, Case{2, 5, 1030}, Case{4, 37, 384}}) {
    const Shape tokens_shape{c.count * c.length, c.width};
    const Shape embedded_shape{c.count * (c.length - 1), c.width};
    const Shape positions_shape{c.length, c.width};
    for (const DType dtype : {DType::float32, DType::bfloat16}) {
      for (const int misalign : {0, 1}) {
        const HostArray embedded = random_normal(dtype, embedded_shape, 1, 1.0, 0.0, misalign);
        const HostArray cls = random_normal(DType::float32, {1, 1, c.width}, 2, 1.0, 0.0, misalign);
        const HostArray positions = random_normal(DType::float32, positions_shape, 3, 1.0, 0.0, misalign);
        HostArray tokens(dtype, tokens_shape, misalign);
        HostArray expected(DType::float64, tokens_shape);
        AssembleTokens args{
            .embedded = embedded, .cls = cls, .positions = positions, .tokens = tokens, .count = c.count};
        assemble_tokens(args, stream);
        args.tokens = expected;
        reference::assemble_tokens(args);
        check_close(tokens, expected, tolerance_of(dtype), "tokens");

        for (const GradientMode mode : {GradientMode::overwrite, GradientMode::accumulate}) {
          const auto start = [&](DType type, const Shape& shape) {
            return mode == GradientMode::accumulate ? random_normal(type, shape, 4, 1.0, 0.0, misalign)
                                                    : HostArray(type, shape, misalign);
          };
          HostArray d_embedded = start(dtype, embedded_shape);
          HostArray d_cls = start(DType::float32, {c.width});
          HostArray d_positions = start(DType::float32, positions_shape);
          HostArray expected_embedded = d_embedded.to(DType::float64);
          HostArray expected_cls = d_cls.to(DType::float64);
          HostArray expected_positions = d_positions.to(DType::float64);
          AssembleTokensBackward backward{.d_tokens = tokens,
                                          .d_embedded = d_embedded,
                                          .d_cls = d_cls,
                                          .d_positions = d_positions,
                                          .count = c.count,
                                          .embedded_mode = mode,
                                          .cls_mode = mode,
                                          .positions_mode = mode};
          assemble_tokens_backward(backward, stream);
          backward.d_embedded = expected_embedded;
          backward.d_cls = expected_cls;
          backward.d_positions = expected_positions;
          reference::assemble_tokens_backward(backward);
          if (c.length > 1) check_close(d_embedded, expected_embedded, tolerance_of(dtype), "d_embedded");
          check_close(d_cls, expected_cls, 1e-6, "d_cls");
          check_close(d_positions, expected_positions, 1e-6, "d_positions");
        }

        // Each gradient alone; the others are not there.
        HostArray only(DType::float32, positions_shape);
        HostArray all(DType::float64, positions_shape);
        AssembleTokensBackward alone{
            .d_tokens = tokens, .d_embedded = {}, .d_cls = {}, .d_positions = only, .count = c.count};
        alone.positions_mode = GradientMode::overwrite;
        assemble_tokens_backward(alone, stream);
        alone.d_positions = all;
        reference::assemble_tokens_backward(alone);
        check_close(only, all, 1e-6, "d_positions alone");
      }
    }
  }
}

TEST_CASE("assemble_tokens gives the same gradients for any number of threads") {
  const auto stream = make_cpu_stream();
  const std::int64_t count = 9;
  const std::int64_t length = 17;
  const std::int64_t width = 40;
  const HostArray d_tokens = random_normal(DType::float32, {count * length, width}, 1);
  const int threads = omp_get_max_threads();
  std::vector<HostArray> d_positions;
  for (const int n : {1, 3}) {
    omp_set_num_threads(n);
    d_positions.emplace_back(DType::float32, Shape{length, width});
    assemble_tokens_backward({.d_tokens = d_tokens,
                              .d_embedded = {},
                              .d_cls = {},
                              .d_positions = d_positions.back(),
                              .count = count,
                              .positions_mode = GradientMode::overwrite},
                             *stream);
  }
  omp_set_num_threads(threads);
  check_close(d_positions[1], d_positions[0], 0.0, "d_positions");
}
