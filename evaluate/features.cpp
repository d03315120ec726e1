#include "evaluate/features.h"

#include "kernels/cast/cast.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <thread>

namespace dino {
namespace {

/// Every picture once, in order, cut by `views`. Another one stands in the place of a broken one; the caller leaves it
/// out by its number.
Loader make_loader(const ImageSource& images, ViewSet views, int batch, int threads) {
  return Loader(images, {.size = images.size(), .batch = batch, .shuffle = false, .drop_last = false}, std::move(views),
                {.threads = threads, .end_epoch = 1});
}

void normalize_row(std::span<float> row, const std::string& name) {
  double square = 0;
  for (const float x : row) square += static_cast<double>(x) * x;
  require(std::isfinite(square), "features", "the features of {} are not finite; try a checkpoint from before", name);
  const double scale = 1.0 / std::max(std::sqrt(square), 1e-12);
  for (float& x : row) x = static_cast<float>(x * scale);
}

}  // namespace

FeatureOptions FeatureOptions::for_image_size(int image_px) {
  return {.crop_px = image_px, .short_side_px = static_cast<int>(std::lround(image_px * 256.0 / 224.0))};
}

FeatureTable extract_features(Context& context, const Vit& vit, const ParameterStore& store, Network network,
                              const ImageSource& images, const FeatureOptions& options,
                              const FeatureProgress& progress) {
  require(images.size() > 0, "features", "the data set is empty");
  FeatureTable table;
  table.width = vit.config().embed_dim;
  table.values.reserve(static_cast<std::size_t>(images.size() * table.width));
  CropPacker packer(context, vit.config().patch_px);
  Loader loader =
      make_loader(images, center_crop_views(options.short_side_px, options.crop_px), options.batch, options.threads);
  Batch batch;
  std::vector<float> rows;
  std::int64_t asked = 0;
  while (loader.next(batch)) {
    Tape tape(context, Tape::Mode::inference);
    Weights weights =
        network == Network::teacher && store.teacher ? Weights::teacher(tape, store) : Weights::student(tape, store);
    const ConstArray pixels = batch.crops(0);
    const Tensor images_tensor =
        context.from_host(pixels.reshaped({batch.size(), options.crop_px, options.crop_px, 3}));
    const Tensor cls = vit.cls_features(tape, weights, packer.pack({{images_tensor}}));
    Tensor fp32 = cls;
    if (cls.dtype() != DType::float32) {
      fp32 = context.empty(cls.shape(), DType::float32);
      cast({.x = cls.array(), .y = fp32.array()}, context.stream());
    }
    rows.resize(static_cast<std::size_t>(cls.size()));
    context.copy_to_host(fp32, Array(rows.data(), cls.shape()));
    for (std::size_t i = 0; i < batch.samples.size(); ++i, ++asked) {
      if (batch.samples[i] != asked) continue;
      const std::span row =
          std::span(rows).subspan(i * static_cast<std::size_t>(table.width), static_cast<std::size_t>(table.width));
      normalize_row(row, images.name(asked));
      table.values.insert(table.values.end(), row.begin(), row.end());
      table.labels.push_back(batch.labels[i]);
    }
    if (progress) progress(asked, images.size(), loader.total_wait_ms() / 1000.0);
  }
  table.broken = loader.broken();
  return table;
}

std::string describe_broken(const FeatureTable& table) {
  if (table.broken.count == 0) return {};
  const BrokenImages::Entry& first = table.broken.entries.front();
  return fmt::format("left out {} of {} images that could not be read, the first: {}", table.broken.count,
                     table.rows() + table.broken.count, first.reason);
}

FeatureTable pixel_features(const ImageSource& images, int side_px, int threads, const FeatureProgress& progress) {
  require(images.size() > 0, "features", "the data set is empty");
  FeatureTable table;
  table.width = std::int64_t{3} * side_px * side_px;
  table.values.reserve(static_cast<std::size_t>(images.size() * table.width));
  Loader loader = make_loader(images, center_crop_views(side_px, side_px), 64, threads);
  Batch batch;
  std::int64_t asked = 0;
  while (loader.next(batch)) {
    const ConstArray crops = batch.crops(0);
    const auto* pixels = crops.as<std::uint8_t>();
    for (std::size_t i = 0; i < batch.samples.size(); ++i, ++asked) {
      if (batch.samples[i] != asked) continue;
      const std::size_t begin = table.values.size();
      double mean = 0;
      for (std::int64_t j = 0; j < table.width; ++j) mean += pixels[static_cast<std::int64_t>(i) * table.width + j];
      mean /= static_cast<double>(table.width);
      for (std::int64_t j = 0; j < table.width; ++j) {
        table.values.push_back(static_cast<float>(pixels[static_cast<std::int64_t>(i) * table.width + j] - mean));
      }
      normalize_row(std::span(table.values).subspan(begin), images.name(asked));
      table.labels.push_back(batch.labels[i]);
    }
    if (progress) progress(asked, images.size(), loader.total_wait_ms() / 1000.0);
  }
  table.broken = loader.broken();
  return table;
}

}  // namespace dino
