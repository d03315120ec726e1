#include "api/model.h"

#include "api/pictures.h"
#include "api/refusal.h"
#include "engine/machine.h"
#include "evaluate/features.h"

#include <omp.h>

#include <algorithm>
#include <cmath>

using namespace dino;
using namespace dino::api;

namespace {

constexpr int kDefaultBatch = 32;
constexpr float kDefaultGpuShare = 0.25F;
constexpr int kMostThreads = 1024;
constexpr int kMostPictures = 1 << 16;

/// The calling thread's number of OpenMP threads while it lives; 0 leaves it.
class ThreadCount {
 public:
  explicit ThreadCount(int threads) : before_(omp_get_max_threads()) {
    if (threads > 0) omp_set_num_threads(threads);
  }
  ~ThreadCount() { omp_set_num_threads(before_); }
  ThreadCount(const ThreadCount&) = delete;
  ThreadCount& operator=(const ThreadCount&) = delete;

 private:
  int before_;
};

std::int64_t tokens_of(const Prepared& size, int patch_px) {
  return 1 + std::int64_t{size.height_px / patch_px} * (size.width_px / patch_px);
}

void require_finite(std::span<const float> values, const char* what, std::size_t number) {
  require(std::all_of(values.begin(), values.end(), [](float x) { return std::isfinite(x); }), what,
          "the numbers of picture {} are not finite; try a checkpoint from before", number);
}

void check_options(const dino_model_options& options) {
  const auto check = [](bool good, const char* name, auto got, const char* expected) {
    require_argument(good, "model", "{} is {}; expected {}", name, got, expected);
  };
  check(options.threads >= 0 && options.threads <= kMostThreads, "threads", options.threads, "0 to 1024");
  check(options.network == DINO_TEACHER || options.network == DINO_STUDENT, "network", options.network,
        "DINO_TEACHER or DINO_STUDENT");
  check(options.heads >= 0, "heads", options.heads, "0 or their number");
  check(options.precision == DINO_FP32 || options.precision == DINO_BF16, "precision", options.precision,
        "DINO_FP32 or DINO_BF16");
  check(options.batch >= 0 && options.batch <= kMostPictures, "batch", options.batch, "0 to 65536");
  check(options.gpu_memory_share >= 0 && options.gpu_memory_share <= 1, "gpu_memory_share", options.gpu_memory_share,
        "a share between 0 and 1");
}

}  // namespace

dino_model::dino_model(const char* path, const dino_model_options& options)
    : threads_((check_options(options), options.threads)), batch_(options.batch == 0 ? kDefaultBatch : options.batch) {
  const ThreadCount threads(threads_);
  WeightsOptions weights{.network = options.network == DINO_STUDENT ? Network::student : Network::teacher,
                         .allow_unexpected = options.allow_unexpected != 0};
  if (options.heads > 0) weights.heads = options.heads;
  const DType type = options.precision == DINO_BF16 ? DType::bfloat16 : DType::float32;
  // The file first: a GPU is not taken for weights that cannot be used.
  const WeightsFile file = failing_as(DINO_BAD_WEIGHTS, [&] { return read_weights(path, weights); });
  const std::string device = options.device == nullptr ? "auto" : options.device;
  context_ = failing_as(DINO_NO_DEVICE, [&] {
    return open_device(device, options.gpu_memory_share == 0 ? kDefaultGpuShare : options.gpu_memory_share);
  });
  device_ = describe_device(*context_, device);
  backbone_ = failing_as(DINO_BAD_WEIGHTS, [&] { return std::make_unique<Backbone>(*context_, file, type); });
}

void dino_model::in_batches(std::span<const dino_image> images, const dino_view& view,
                            const std::function<void(const ConstArray& pixels, std::size_t first)>& compute) {
  const int patch_px = config().patch_px;
  const std::int64_t native_tokens = 1 + std::int64_t{config().grid()} * config().grid();
  for (std::size_t first = 0; first < images.size();) {
    const Prepared size = prepared_size(images[first], first, view, config());
    // As many tokens as `batch_` pictures of the native size have, or one picture.
    const std::int64_t most = std::max<std::int64_t>(1, batch_ * native_tokens / tokens_of(size, patch_px));
    std::size_t end = first + 1;
    while (end < images.size() && end - first < static_cast<std::size_t>(most) &&
           prepared_size(images[end], end, view, config()) == size) {
      ++end;
    }
    prepare(images.subspan(first, end - first), first, view, size, patch_px, pixels_);
    const auto count = static_cast<std::int64_t>(end - first);
    compute(size.normalized ? ConstArray(pixels_.data(), DType::float32, {count, 3, size.height_px, size.width_px})
                            : ConstArray(pixels_.data(), DType::uint8, {count, size.height_px, size.width_px, 3}),
            first);
    first = end;
  }
}

void dino_model::features(std::span<const dino_image> images, const dino_view& view,
                          const dino_feature_options& options, float* to) {
  const std::scoped_lock lock(mutex_);
  const ThreadCount threads(threads_);
  const FeatureKind kind{.blocks = options.blocks, .average_patches = options.average_patches != 0};
  const auto width = static_cast<std::size_t>(kind.width(config()));
  std::vector<float> rows;
  in_batches(images, view, [&](const ConstArray& pixels, std::size_t first) {
    compute_features(*context_, backbone_->vit, backbone_->store, Network::student, pixels, kind, rows);
    for (std::size_t i = 0; i * width < rows.size(); ++i)
      finish_features(std::span(rows).subspan(i * width, width), options.raw == 0,
                      fmt::format("picture {}", first + i));
    std::copy(rows.begin(), rows.end(), to + first * width);
  });
}

void dino_model::patch_tokens(std::span<const dino_image> images, const dino_view& view, float* to) {
  const std::scoped_lock lock(mutex_);
  const ThreadCount threads(threads_);
  const auto width = static_cast<std::size_t>(config().embed_dim);
  in_batches(images, view, [&](const ConstArray& pixels, std::size_t first) {
    const auto count = static_cast<std::size_t>(pixels.extent(0));
    Tape tape(*context_, Tape::Mode::inference);
    Weights weights = Weights::student(tape, backbone_->store);
    CropPacker packer(*context_, config().patch_px);
    const PackedCrops crops = packer.pack({{context_->from_host(pixels)}});
    const std::vector<float> tokens = host_rows(*context_, backbone_->vit.last_tokens(tape, weights, crops).front());
    const std::size_t each = tokens.size() / count;  // CLS and patches
    for (std::size_t i = 0; i < count; ++i) {
      const std::span patches = std::span(tokens).subspan(i * each + width, each - width);
      require_finite(patches, "patch tokens", first + i);
      to = std::copy(patches.begin(), patches.end(), to);
    }
  });
}

void dino_model::attention(std::span<const dino_image> images, const dino_view& view, int layer, float* to) {
  const std::scoped_lock lock(mutex_);
  const ThreadCount threads(threads_);
  in_batches(images, view, [&](const ConstArray& pixels, std::size_t first) {
    const auto count = static_cast<std::size_t>(pixels.extent(0));
    Tape tape(*context_, Tape::Mode::inference);
    Weights weights = Weights::student(tape, backbone_->store);
    CropPacker packer(*context_, config().patch_px);
    const PackedCrops crops = packer.pack({{context_->from_host(pixels)}});
    const std::vector<float> rows =
        host_rows(*context_, backbone_->vit.cls_attention(tape, weights, crops, layer));  // (H, count·(1 + N))
    const std::size_t row = rows.size() / static_cast<std::size_t>(config().heads), each = row / count;
    for (std::size_t i = 0; i < count; ++i) {
      for (std::size_t head = 0; head < static_cast<std::size_t>(config().heads); ++head) {
        const std::span patches = std::span(rows).subspan(head * row + i * each + 1, each - 1);
        require_finite(patches, "attention", first + i);
        to = std::copy(patches.begin(), patches.end(), to);
      }
    }
  });
}
