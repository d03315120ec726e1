#include "kernels/patch_embed/patch_embed.h"
#include "selftest/kernels/kernel_check.h"

namespace dino {
namespace {

void patchify_check(KernelBench& b) {
  struct Case {
    std::int64_t height, width, patch;
  };
  for (const Case& c : {Case{6, 9, 3}, Case{64, 96, 16}}) {
    const Value images = b.bytes({2, c.height, c.width, 3}),
                patches = b.result({2 * (c.height / c.patch) * (c.width / c.patch), 3 * c.patch * c.patch});
    b.run(
        [&](At at) {
          return Patchify{.images = at(images),
                          .patches = at(patches),
                          .patch_px = c.patch,
                          .mean = {0.485F, 0.456F, 0.406F},
                          .std = {0.229F, 0.224F, 0.225F}};
        },
        patchify, reference::patchify, {{"patches", patches, b.bound(1e-6, kBf16)}});
  }
}

void assemble_tokens_check(KernelBench& b) {
  for (const Shape& one : {Shape{5, 7}, Shape{37, 384}}) {  // tokens of a sequence, width
    const std::int64_t count = 3, length = one[0], width = one[1];
    const Value embedded = b.normal({count * (length - 1), width}), cls = b.normal(kFloat, {1, 1, width}),
                positions = b.normal(kFloat, {length, width}), tokens = b.result({count * length, width});
    b.run(
        [&](At at) {
          return AssembleTokens{.embedded = at(embedded),
                                .cls = at(cls),
                                .positions = at(positions),
                                .tokens = at(tokens),
                                .count = count};
        },
        assemble_tokens, reference::assemble_tokens, {{"tokens", tokens, b.bound(1e-6, kBf16)}});
  }
}

void assemble_tokens_backward_check(KernelBench& b) {
  for (const Shape& one : {Shape{5, 7}, Shape{37, 384}}) {
    const std::int64_t count = 3, length = one[0], width = one[1];
    const Value d_tokens = b.normal({count * length, width}), d_embedded = b.result({count * (length - 1), width}),
                d_cls = b.result(kFloat, {width}), d_positions = b.updated(kFloat, {length, width});
    b.run(
        [&](At at) {
          return AssembleTokensBackward{.d_tokens = at(d_tokens),
                                        .d_embedded = at(d_embedded),
                                        .d_cls = at(d_cls),
                                        .d_positions = at(d_positions),
                                        .count = count,
                                        .embedded_mode = kOverwrite,
                                        .cls_mode = kOverwrite,
                                        .positions_mode = kAccumulate};
        },
        assemble_tokens_backward, reference::assemble_tokens_backward,
        {{"d_embedded", d_embedded, b.bound(1e-6, kBf16)}, {"d_cls", d_cls, 1e-6}, {"d_positions", d_positions, 1e-6}});
  }
}

}  // namespace

KernelChecks patch_embed_checks() {
  static constexpr KernelCheck kChecks[] = {
      {"assemble_tokens", true, assemble_tokens_check},
      {"assemble_tokens_backward", true, assemble_tokens_backward_check},
      {"patchify", true, patchify_check},
  };
  return kChecks;
}

}  // namespace dino
