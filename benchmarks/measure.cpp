#include "benchmarks/measure.h"

#include "benchmarks/device_clock.h"
#include "kernels/column_sum/column_sum.h"
#include "kernels/common/error.h"
#include "kernels/common/parallel.h"
#include "kernels/matmul/matmul.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <ctime>
#include <fstream>

namespace dino::bench {
namespace {

double wall_ms() {
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

double now_ms(Clock clock) {
  if (clock == Clock::wall) return wall_ms();
  timespec time{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
  const double ms = 1e3 * static_cast<double>(time.tv_sec) + 1e-6 * static_cast<double>(time.tv_nsec);
  return ms / omp_get_max_threads();
}

/// The value below which a share `q` of them lies, between neighbours.
double quantile(const std::vector<double>& sorted, double q) {
  const double at = q * static_cast<double>(sorted.size() - 1);
  const auto below = static_cast<std::size_t>(at);
  const std::size_t above = std::min(below + 1, sorted.size() - 1);
  return sorted[below] + (at - static_cast<double>(below)) * (sorted[above] - sorted[below]);
}

Timing timing_of(std::vector<double> ms) {
  std::sort(ms.begin(), ms.end());
  return {quantile(ms, 0.5), quantile(ms, 0.25), quantile(ms, 0.75), static_cast<int>(ms.size())};
}

/// Copies on all threads, as a kernel would.
void copy_on_cpu(const Array& to, const ConstArray& from) {
  parallel_for(static_cast<std::int64_t>(to.size_bytes()), 1 << 16, [&](std::int64_t begin, std::int64_t end) {
    std::memcpy(static_cast<std::byte*>(to.data()) + begin, static_cast<const std::byte*>(from.data()) + begin,
                static_cast<std::size_t>(end - begin));
  });
}

}  // namespace

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return quantile(values, 0.5);
}

std::vector<std::size_t> cache_sizes_bytes() {
  std::vector<std::size_t> sizes;
  for (int i = 0; i < 8; ++i) {
    const std::string folder = fmt::format("/sys/devices/system/cpu/cpu0/cache/index{}/", i);
    std::ifstream type_file(folder + "type"), size_file(folder + "size");
    std::string type;
    std::size_t size = 0;
    char unit = 'B';
    if (!(type_file >> type) || !(size_file >> size)) break;
    size_file >> unit;
    if (type != "Instruction") sizes.push_back(size << (unit == 'K' ? 10 : unit == 'M' ? 20 : 0));
  }
  std::sort(sizes.begin(), sizes.end());
  return sizes;
}

ColdCache::ColdCache(Context& context) : context_(context) {
  constexpr std::int64_t kColumns = 1024;
  // A GPU's second-level cache has 40 to 126 MiB.
  std::size_t cache = std::size_t{256} << 20;
  if (context.device() == Device::cpu) {
    const std::vector<std::size_t> sizes = cache_sizes_bytes();
    cache = sizes.empty() ? std::size_t{64} << 20 : sizes.back();
  }
  const auto rows = static_cast<std::int64_t>((cache + cache / 4) / sizeof(float)) / kColumns;
  buffer_ = context.zeros({rows, kColumns}, DType::float32);
  sums_ = context.zeros({kColumns}, DType::float32);
}

void ColdCache::evict() {
  if (context_.device() != Device::cpu) {
    // What was written instead would have to leave the cache while the kernel runs, on its account.
    column_sum({.x = buffer_.array(), .y = sums_.array()}, context_.stream());
    return;
  }
  std::atomic<std::uint32_t> sum = 0;
  const auto* words = reinterpret_cast<const std::uint32_t*>(buffer_.data());
  constexpr std::int64_t kWordsALine = 16;
  parallel_for(buffer_.size() / kWordsALine, 1 << 10, [&](std::int64_t begin, std::int64_t end) {
    std::uint32_t part = 0;
    for (std::int64_t line = begin; line < end; ++line) part += words[line * kWordsALine];
    sum += part;  // keeps the compiler from leaving the reads out
  });
}

Measurement measure(const Prepared& prepared, Stream& stream, ColdCache& cold, const MeasureOptions& options) {
  constexpr std::size_t kLeast = 3;
  std::vector<const std::function<void()>*> contenders{&prepared.run};
  for (const Reference& reference : prepared.references) contenders.push_back(&reference.run);
  std::unique_ptr<DeviceClock> device_clock;
  if (options.clock == Clock::device) {
    require(&make_device_clock != nullptr && stream.device() != Device::cpu, "bench", "there is no clock of a device");
    device_clock = make_device_clock(stream);
  }
  const auto call = [&](const std::function<void()>& run) {
    cold.evict();
    if (device_clock) {
      // While the device is still busy with the cache, the host puts the work behind it.
      device_clock->begin();
      run();
      device_clock->end();
      return device_clock->elapsed_ms();
    }
    stream.synchronize();
    const double begin_ms = now_ms(options.clock);
    run();
    stream.synchronize();
    return now_ms(options.clock) - begin_ms;
  };
  // A reference that takes seconds is not worth many calls.
  std::vector<double> spent_ms(contenders.size(), 0);
  std::vector<std::vector<double>> ms(contenders.size());
  for (const auto* run : contenders) call(*run);  // first touches, and what is made once
  for (int i = 0; i < std::max(options.repetitions, 1); ++i) {
    for (std::size_t c = 0; c < contenders.size(); ++c) {
      const std::size_t least = c == 0 ? kLeast : 1;
      if (ms[c].size() >= least && spent_ms[c] > 1e3 * options.most_seconds) continue;
      const double start_ms = wall_ms();
      ms[c].push_back(call(*contenders[c]));
      spent_ms[c] += wall_ms() - start_ms;
    }
  }
  Measurement measurement;
  measurement.timing = timing_of(ms[0]);
  for (std::size_t c = 1; c < contenders.size(); ++c) measurement.references.push_back(timing_of(ms[c]));
  return measurement;
}

double Roofline::least_ms(double bytes, double flops, DType dtype) const {
  return 1e3 * std::max(bytes / copy_bytes_per_s, flops / flops_per_s(dtype));
}

bool Roofline::bound_by_memory(double bytes, double flops, DType dtype) const {
  return bytes / copy_bytes_per_s >= flops / flops_per_s(dtype);
}

Roofline measure_roofline(Context& context, ColdCache& cold, const MeasureOptions& options) {
  Roofline roofline;
  Stream& stream = context.stream();
  {
    // A GPU takes as long to come up to speed as to copy a few megabytes.
    const std::int64_t count = std::int64_t{context.device() == Device::cpu ? 16 : 256} << 20;
    const Tensor from = context.zeros({count}, DType::float32);
    const Tensor to = context.zeros(from.shape(), from.dtype());
    Prepared copy;
    copy.run = [&] {
      if (context.device() == Device::cpu) return copy_on_cpu(to.array(), from.array());
      stream.copy(to.data(), from.data(), to.size_bytes());
    };
    const double s = 1e-3 * measure(copy, stream, cold, options).timing.median_ms;
    roofline.copy_bytes_per_s = 2.0 * static_cast<double>(to.size_bytes()) / s;
  }
  for (const DType dtype : {DType::float32, DType::bfloat16}) {
    constexpr Workload kNone{};
    const std::int64_t n = context.device() == Device::cpu ? 1536 : 8192;
    Bench bench(context, kNone, dtype);
    const Array a = bench.values({n, n}), b = bench.values({n, n}), y = bench.zeros(dtype, {n, n});
    Prepared product;
    product.run = [&] { matmul({.a = a, .b = b, .y = y, .transpose_b = true}, stream); };
    const double s = 1e-3 * measure(product, stream, cold, options).timing.median_ms;
    const double flops = 2.0 * static_cast<double>(n * n) * static_cast<double>(n);
    (dtype == DType::float32 ? roofline.fp32_flops_per_s : roofline.bf16_flops_per_s) = flops / s;
  }
  return roofline;
}

}  // namespace dino::bench
