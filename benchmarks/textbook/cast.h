#pragma once

#include "benchmarks/textbook/step.h"
#include "kernels/cast/cast.h"

namespace dino::bench::textbook {

/// fp32 to bf16.
struct CastSteps {
  Cast args;

  [[gnu::weak]] static Call on_gpu(const CastSteps& steps, Stream& stream);

  template <typename On>
  void run(const On& on) const {
    const auto* x = args.x.as<float>();
    auto* y = args.y.as<BFloat16>();
    on.for_each(args.x.size(), [=] DINO_STEP(std::int64_t i) { y[i] = put<BFloat16>(x[i]); });
  }
};

}  // namespace dino::bench::textbook
