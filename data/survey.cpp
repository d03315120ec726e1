#include "data/survey.h"

#include "engine/text.h"
#include "kernels/common/error.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <new>
#include <optional>
#include <thread>
#include <unordered_map>

namespace dino {
namespace {

constexpr std::int64_t kLeastPictures = 64;

/// What one picture adds to the summary.
struct Look {
  int short_px = 0, long_px = 0;
  bool grey = true;
  std::uint64_t hash = 0;  // 0: no structure
  std::array<double, 3> sum{0, 0, 0}, square{0, 0, 0};
  std::string broken;  // what is wrong with it
};

/// Signs of the differences between horizontal neighbours among the grey means of 8 × 9 cells.
std::uint64_t difference_hash(const Image& image) {
  constexpr int kRows = 8, kColumns = 9;
  if (image.height < kRows || image.width < kColumns) return 0;
  std::uint64_t hash = 0;
  for (int r = 0; r < kRows; ++r) {
    double before = 0;
    for (int c = 0; c < kColumns; ++c) {
      const int top = r * image.height / kRows, bottom = (r + 1) * image.height / kRows;
      const int left = c * image.width / kColumns, right = (c + 1) * image.width / kColumns;
      double sum = 0;
      for (int y = top; y < bottom; ++y) {
        const std::uint8_t* p = image.rgb.data() + (static_cast<std::ptrdiff_t>(y) * image.width + left) * 3;
        for (int i = 0; i < (right - left) * 3; ++i) sum += p[i];
      }
      const double mean = sum / ((bottom - top) * (right - left) * 3);
      // Half a level of grey apart, so that flat areas do not answer by their rounding.
      if (c > 0) hash = hash << 1 | (mean > before + 0.5 ? 1U : 0U);
      before = mean;
    }
  }
  return hash;
}

Look look_at(const Dataset& images, std::int64_t index, Image& image) {
  Look look;
  try {
    images.decode(index, image);
  } catch (const Error& error) {
    look.broken = printable(error.what());
    return look;
  } catch (const std::bad_alloc&) {
    look.broken = printable(images.name(index)) + ": there is no memory for it";
    return look;
  }
  look.short_px = std::min(image.height, image.width);
  look.long_px = std::max(image.height, image.width);
  const std::size_t pixels = static_cast<std::size_t>(image.height) * static_cast<std::size_t>(image.width);
  std::array<std::uint64_t, 3> sum{0, 0, 0}, square{0, 0, 0};
  for (std::size_t i = 0; i < pixels; ++i) {
    const std::uint8_t* p = image.rgb.data() + 3 * i;
    // JPEG's rounding leaves grey pictures a level or two of colour.
    look.grey = look.grey && std::abs(p[0] - p[1]) <= 2 && std::abs(p[1] - p[2]) <= 2;
    for (std::size_t c = 0; c < 3; ++c) {
      sum[c] += p[c];
      square[c] += static_cast<std::uint64_t>(p[c]) * p[c];
    }
  }
  for (std::size_t c = 0; c < 3; ++c) {
    // Each picture counts alike, however large it is.
    look.sum[c] = static_cast<double>(sum[c]) / 255 / static_cast<double>(pixels);
    look.square[c] = static_cast<double>(square[c]) / (255 * 255) / static_cast<double>(pixels);
  }
  look.hash = difference_hash(image);
  return look;
}

/// Decodes the chosen pictures with several threads, until the time is up. Those that were not reached stay empty.
std::vector<std::optional<Look>> look_at_all(const Dataset& images, const std::vector<std::int64_t>& chosen,
                                             const SurveyOptions& options, const SurveyProgress& progress) {
  const auto start = std::chrono::steady_clock::now();
  const auto total = static_cast<std::int64_t>(chosen.size());
  std::vector<std::optional<Look>> looks(chosen.size());
  std::atomic<std::int64_t> next{0}, done{0};
  std::atomic<bool> stop{false};
  const auto time_is_up = [&](std::int64_t n) {
    return n >= kLeastPictures &&
           std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() > options.most_seconds;
  };
  const auto work = [&] {
    Image image;
    while (!stop) {
      const std::int64_t n = next++;
      if (n >= total || time_is_up(n)) return;
      looks[static_cast<std::size_t>(n)] = look_at(images, chosen[static_cast<std::size_t>(n)], image);
      ++done;
    }
  };
  const int threads =
      options.threads > 0 ? options.threads : std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  std::atomic<int> running{threads};
  std::vector<std::jthread> workers;
  for (int i = 0; i < threads; ++i) {
    workers.emplace_back([&] {
      work();
      --running;
    });
  }
  try {
    while (running > 0) {
      if (progress) progress(done, total);
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
  } catch (...) {
    stop = true;
    throw;
  }
  if (progress) progress(total, total);
  return looks;
}

Spread spread_of(std::vector<int> values) {
  if (values.empty()) return {};
  std::sort(values.begin(), values.end());
  const auto at = [&](double share) {
    return values[static_cast<std::size_t>(std::lround(share * static_cast<double>(values.size() - 1)))];
  };
  return {values.front(), at(0.05), at(0.5), at(0.95), values.back()};
}

void count_classes(const Dataset& images, DataSummary& summary) {
  if (images.class_names().empty()) return;
  std::vector<std::int64_t> counts(images.class_names().size());
  for (std::int64_t i = 0; i < images.size(); ++i) {
    const std::int32_t label = images.label(i);
    if (label >= 0) ++counts[static_cast<std::size_t>(label)];
  }
  std::erase(counts, 0);  // of another split
  if (counts.empty()) return;
  summary.classes = static_cast<std::int64_t>(counts.size());
  summary.smallest_class = *std::min_element(counts.begin(), counts.end());
  summary.largest_class = *std::max_element(counts.begin(), counts.end());
}

}  // namespace

DataSummary survey(const Dataset& images, const Dataset* test, const SurveyOptions& options,
                   const SurveyProgress& progress) {
  DataSummary summary;
  summary.pictures = images.size();
  summary.test_pictures = test != nullptr ? test->size() : 0;
  count_classes(images, summary);

  // In an order that covers the whole set early, so that an early end leaves a fair sample.
  const std::int64_t count = std::min(images.size(), options.most_pictures);
  std::vector<std::int64_t> chosen;
  for (const std::int64_t stride : {16, 8, 4, 2, 1}) {
    for (std::int64_t i = 0; i < count; i += stride) {
      if (stride < 16 && i % (2 * stride) == 0) continue;  // chosen already
      chosen.push_back(i * images.size() / count);
    }
  }
  const auto looks = look_at_all(images, chosen, options, progress);

  std::vector<int> short_px, long_px;
  std::array<double, 3> square{0, 0, 0};
  std::unordered_map<std::uint64_t, std::int64_t> seen;
  std::int64_t grey = 0;
  for (std::size_t i = 0; i < looks.size(); ++i) {
    if (!looks[i]) continue;
    const Look& look = *looks[i];
    ++summary.looked_at;
    if (!look.broken.empty()) {
      if (summary.broken++ == 0) summary.broken_example = look.broken;
      continue;
    }
    short_px.push_back(look.short_px);
    long_px.push_back(look.long_px);
    grey += look.grey ? 1 : 0;
    for (std::size_t c = 0; c < 3; ++c) {
      summary.mean[c] += look.sum[c];
      square[c] += look.square[c];
    }
    if (look.hash == 0) continue;
    const auto [at, is_new] = seen.emplace(look.hash, chosen[i]);
    if (!is_new && summary.near_copies++ == 0)
      summary.near_copy_example = printable(images.name(at->second) + " and " + images.name(chosen[i]));
  }
  summary.short_side_px = spread_of(short_px);
  summary.long_side_px = spread_of(long_px);
  const auto sound = static_cast<double>(short_px.size());
  if (short_px.empty()) return summary;
  summary.grey_share = static_cast<double>(grey) / sound;
  for (std::size_t c = 0; c < 3; ++c) {
    summary.mean[c] /= sound;
    summary.deviation[c] = std::sqrt(std::max(0.0, square[c] / sound - summary.mean[c] * summary.mean[c]));
  }
  return summary;
}

}  // namespace dino
