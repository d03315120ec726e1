#include "engine/communicators/host_communicator.h"

#include "kernels/common/error.h"

namespace dino {
namespace {

template <typename T>
void sum_elements(std::span<const std::byte* const> parts, T* out, std::int64_t count) {
  // In pieces that stay in the cache, so that memory is read once.
  constexpr std::int64_t kPiece = 4096;
  float sums[kPiece];
  for (std::int64_t begin = 0; begin < count; begin += kPiece) {
    const std::int64_t here = std::min(kPiece, count - begin);
    const auto part = [&](std::size_t i) { return reinterpret_cast<const T*>(parts[i]) + begin; };
    for (std::int64_t i = 0; i < here; ++i) sums[i] = static_cast<float>(part(0)[i]);
    for (std::size_t p = 1; p < parts.size(); ++p) {
      const T* values = part(p);
#pragma omp simd
      for (std::int64_t i = 0; i < here; ++i) sums[i] += static_cast<float>(values[i]);
    }
    for (std::int64_t i = 0; i < here; ++i) out[begin + i] = static_cast<T>(sums[i]);
  }
}

std::span<std::byte> bytes_of(const Array& array) {
  return {static_cast<std::byte*>(array.data()), array.size_bytes()};
}
std::span<const std::byte> bytes_of(const ConstArray& array) {
  return {static_cast<const std::byte*>(array.data()), array.size_bytes()};
}

}  // namespace

void sum_in_order(std::span<const std::byte* const> parts, const Array& out) {
  switch (out.dtype()) {
    case DType::float32: return sum_elements(parts, out.as<float>(), out.size());
    case DType::bfloat16: return sum_elements(parts, out.as<BFloat16>(), out.size());
    default: fail("communicator", "sums over ranks are of float32 or bfloat16; got {}", name_of(out.dtype()));
  }
}

std::string list_of_ranks(std::span<const int> ranks) {
  constexpr std::size_t kMost = 6;
  std::string text = ranks.size() == 1 ? "rank " : "ranks ";
  const std::size_t shown = std::min(kMost, ranks.size());
  for (std::size_t i = 0; i < shown; ++i) {
    if (i > 0) text += i + 1 == ranks.size() ? " and " : ", ";
    text += std::to_string(ranks[i]);
  }
  if (shown < ranks.size()) text += fmt::format(" and {} more", ranks.size() - shown);
  return text;
}

void fail_mismatch(int rank, std::string_view theirs, std::string_view ours, std::string_view when) {
  fail("communicator",
       "the ranks do different things: rank {} is at \"{}\", this one at \"{}\", {}; try the same program, "
       "configuration and data on every rank",
       rank, theirs, ours, when);
}

std::string HostCommunicator::when() const {
  const std::int64_t step = step_;
  return step < 0 ? "before the first step" : fmt::format("at step {}", step);
}

Array HostCommunicator::staged(const ConstArray& array) {
  if (staging_.size() < array.size_bytes()) staging_ = AlignedBuffer(array.size_bytes());
  return {staging_.data(), array.dtype(), array.shape()};
}

void HostCommunicator::all_reduce_sum(const Array& values, Stream& stream, std::string_view name) {
  if (stream.device() == Device::cpu) return all_reduce_sum_host(values, name);
  const Array host = staged(values);
  stream.copy_to_host(host.data(), values.data(), values.size_bytes());
  all_reduce_sum_host(host, name);
  stream.copy_from_host(values.data(), host.data(), values.size_bytes());
}

void HostCommunicator::all_gather(const ConstArray& mine, const Array& all, Stream& stream, std::string_view name) {
  if (stream.device() == Device::cpu) return all_gather_host(bytes_of(mine), bytes_of(all), name);
  const Array host = staged(all);
  const auto bytes = bytes_of(host);
  const auto place = bytes.subspan(static_cast<std::size_t>(rank()) * mine.size_bytes(), mine.size_bytes());
  stream.copy_to_host(place.data(), mine.data(), place.size());
  all_gather_host(place, bytes, name);
  stream.copy_from_host(all.data(), host.data(), all.size_bytes());
}

void HostCommunicator::broadcast(const Array& values, int root, Stream& stream, std::string_view name) {
  if (stream.device() == Device::cpu) return broadcast_host(bytes_of(values), root, name);
  const Array host = staged(values);
  if (rank() == root) stream.copy_to_host(host.data(), values.data(), values.size_bytes());
  broadcast_host(bytes_of(host), root, name);
  if (rank() != root) stream.copy_from_host(values.data(), host.data(), values.size_bytes());
}

}  // namespace dino
