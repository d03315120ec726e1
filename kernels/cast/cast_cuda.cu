#include "kernels/cast/cast.h"
#include "kernels/common/cuda/launch.h"

namespace dino::cuda {
namespace {

constexpr int kThreads = 256;

/// One pack per thread. Traffic: as the contract says; bound by memory.
template <typename From, typename To, int N>
__global__ void cast_packs(const From* __restrict__ x, To* __restrict__ y, std::int64_t packs) {
  const std::int64_t i = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= packs) return;
  float values[N];
  load(x + i * N, values);
  store(values, y + i * N);
}

template <typename From, typename To, int N>
void cast_from(const Cast& args, Stream& stream, std::int64_t begin, std::int64_t end) {
  const std::int64_t packs = (end - begin) / N;
  launch(cast_packs<From, To, N>, {blocks_for(packs, kThreads), kThreads}, stream, args.x.as<From>() + begin,
         args.y.as<To>() + begin, packs);
}

}  // namespace

void cast(const Cast& args, Stream& stream) {
  check_cast(args);
  visit_compute_type(args.x.dtype(), "cast", [&](auto from) {
    visit_compute_type(args.y.dtype(), "cast", [&](auto to) {
      using From = decltype(from);
      using To = decltype(to);
      constexpr int kPack = 16 / static_cast<int>(std::max(sizeof(From), sizeof(To)));
      const bool aligned = pack_size<From>(kPack * 4, args.x) > 1 && pack_size<To>(kPack * 4, args.y) > 1;
      const std::int64_t whole = aligned ? args.x.size() / kPack * kPack : 0;
      cast_from<From, To, kPack>(args, stream, 0, whole);
      cast_from<From, To, 1>(args, stream, whole, args.x.size());
    });
  });
}

}  // namespace dino::cuda
