#include "kernels/patch_embed/patch_embed.h"

#include "kernels/common/operation_cost.h"

namespace dino {

using namespace cost;

OperationCost cost_of(const Patchify& a, Stream&) {
  return {.group = kTokens,
          .work = fmt::format("{} to {}", name_of(a.images.dtype()), name_of(a.patches.dtype())),
          .size = fmt::format("{}, patches of {}", size_of_array(a.images), a.patch_px),
          .bytes = bytes_of({a.images, a.patches}),
          .type = a.patches.dtype()};
}

OperationCost cost_of(const AssembleTokens& a, Stream&) {
  return {.group = kTokens,
          .work = options(a.tokens.dtype()),
          .size = size_of_array(a.tokens),
          .bytes = bytes_of({a.embedded, a.tokens}),
          .type = a.tokens.dtype()};
}

OperationCost cost_of(const AssembleTokensBackward& a, Stream&) {
  return {.group = kTokens,
          .work = options(a.d_tokens.dtype()),
          .size = size_of_array(a.d_tokens),
          .bytes = bytes_of({a.d_tokens}) + written(a.d_embedded, a.embedded_mode),
          .type = a.d_tokens.dtype()};
}

}  // namespace dino
