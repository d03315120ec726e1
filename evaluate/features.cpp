#include "evaluate/features.h"

#include "data/fingerprint.h"
#include "engine/random.h"
#include "engine/text.h"
#include "evaluate/held_out.h"
#include "kernels/cast/cast.h"
#include "kernels/common/parallel.h"
#include "train/stop_signal.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <thread>

namespace dino {
namespace {

/// Every picture once, in order, cut by `views`.
Loader make_loader(const ImageSource& images, ViewSet views, int batch, int threads) {
  return Loader(images, {.size = images.size(), .batch = batch, .shuffle = false, .drop_last = false}, std::move(views),
                {.threads = threads, .end_epoch = 1, .broken_pictures = BrokenPictures::left_out});
}

/// By their numbers: threads find them in any order.
BrokenImages in_order(BrokenImages broken) {
  std::sort(broken.entries.begin(), broken.entries.end(),
            [](const BrokenImage& a, const BrokenImage& b) { return a.index < b.index; });
  return broken;
}

/// All other pictures are `broken`.
void require_some(std::int64_t good, const BrokenImages& broken) {
  if (good > 0) return;
  const BrokenImage& first = broken.entries.at(0);
  fail("features", "no picture can be read: all {} are broken; the first is {}: {}", broken.count, first.name,
       first.reason);
}

}  // namespace

FeatureKind FeatureKind::linear_probe(const VitConfig& config) {
  if (config.embed_dim >= 768) return {.blocks = 1, .average_patches = true};
  return {.blocks = std::min(4, config.depth)};
}

void FeatureKind::check(const VitConfig& config) const {
  require(blocks >= 1 && blocks <= config.depth, "features", "the last {} blocks were asked for; the network has {}",
          blocks, config.depth);
  require(!average_patches || blocks == 1, "features",
          "the average of the patch tokens goes with the last block alone; got {} blocks, expected 1", blocks);
}

FeatureOptions FeatureOptions::for_image_size(int image_px) {
  return {.crop_px = image_px, .short_side_px = static_cast<int>(std::lround(image_px * 256.0 / 224.0))};
}

void finish_features(std::span<float> row, bool normalized, std::string_view name) {
  double square = 0;
  for (const float x : row) square += static_cast<double>(x) * x;
  require(std::isfinite(square), "features", "the features of {} are not finite; try a checkpoint from before", name);
  if (!normalized) return;
  const double scale = 1.0 / std::max(std::sqrt(square), 1e-12);
  for (float& x : row) x = static_cast<float>(x * scale);
}

std::vector<float> host_rows(Context& context, const Tensor& rows) {
  Tensor fp32 = rows;
  if (rows.dtype() != DType::float32) {
    fp32 = context.empty(rows.shape(), DType::float32);
    cast({.x = rows.array(), .y = fp32.array()}, context.stream());
  }
  std::vector<float> values(static_cast<std::size_t>(rows.size()));
  context.copy_to_host(fp32, Array(values.data(), rows.shape()));
  return values;
}

void compute_features(Context& context, const Vit& vit, const ParameterStore& store, Network network,
                      const ConstArray& pixels, const FeatureKind& kind, std::vector<float>& rows) {
  kind.check(vit.config());
  const std::int64_t count = pixels.extent(0), width = vit.config().embed_dim;
  Tape tape(context, Tape::Mode::inference);
  Weights weights =
      network == Network::teacher && store.teacher ? Weights::teacher(tape, store) : Weights::student(tape, store);
  CropPacker packer(context, vit.config().patch_px);
  const PackedCrops crops = packer.pack({{context.from_host(pixels)}});
  rows.resize(static_cast<std::size_t>(count * kind.width(vit.config())));
  if (!kind.average_patches) {
    const std::vector<Tensor> cls = vit.last_cls(tape, weights, crops, kind.blocks);
    for (std::int64_t block = 0; block < kind.blocks; ++block) {
      const std::vector<float> values = host_rows(context, cls[static_cast<std::size_t>(block)]);
      for (std::int64_t i = 0; i < count; ++i)
        std::copy_n(values.begin() + i * width, width, rows.begin() + (i * kind.blocks + block) * width);
    }
    return;
  }
  const std::vector<float> tokens = host_rows(context, vit.last_tokens(tape, weights, crops).front());
  const std::int64_t tokens_each = static_cast<std::int64_t>(tokens.size()) / (count * width);
  std::vector<double> sum(static_cast<std::size_t>(width));
  for (std::int64_t i = 0; i < count; ++i) {
    const float* token = tokens.data() + i * tokens_each * width;  // CLS is the first
    float* row = rows.data() + 2 * i * width;
    for (std::int64_t c = 0; c < width; ++c) row[2 * c] = token[c];
    std::fill(sum.begin(), sum.end(), 0.0);
    for (std::int64_t n = 1; n < tokens_each; ++n) {
      for (std::int64_t c = 0; c < width; ++c)
        sum[static_cast<std::size_t>(c)] += static_cast<double>(token[n * width + c]);
    }
    for (std::int64_t c = 0; c < width; ++c)
      row[2 * c + 1] = static_cast<float>(sum[static_cast<std::size_t>(c)] / static_cast<double>(tokens_each - 1));
  }
}

namespace {

/// Also of a set of which none can be read.
FeatureTable extract_what_is_good(Context& context, const Vit& vit, const ParameterStore& store, Network network,
                                  const ImageSource& images, const FeatureOptions& options,
                                  const FeatureProgress& progress) {
  require(images.size() > 0, "features", "the data set is empty");
  options.kind.check(vit.config());  // before memory is taken for what a file of features may claim
  FeatureTable table;
  table.width = options.kind.width(vit.config());
  table.values.reserve(static_cast<std::size_t>(images.size() * table.width));
  Loader loader =
      make_loader(images, center_crop_views(options.short_side_px, options.crop_px), options.batch, options.threads);
  Batch batch;
  std::vector<float> rows;
  std::int64_t asked = 0;
  while (loader.next(batch)) {
    const ConstArray pixels = batch.crops(0).reshaped({batch.size(), options.crop_px, options.crop_px, 3});
    compute_features(context, vit, store, network, pixels, options.kind, rows);
    for (std::size_t i = 0; i < batch.samples.size(); ++i, ++asked) {
      if (batch.samples[i] < 0) continue;  // broken
      const std::span row =
          std::span(rows).subspan(i * static_cast<std::size_t>(table.width), static_cast<std::size_t>(table.width));
      finish_features(row, options.normalized, images.name(asked));
      table.values.insert(table.values.end(), row.begin(), row.end());
      table.labels.push_back(batch.labels[i]);
      table.samples.push_back(asked);
    }
    if (progress) progress(asked, images.size(), loader.total_wait_ms() / 1000.0);
  }
  table.broken = in_order(loader.broken());
  return table;
}

/// What each rank has to say before its rows are gathered.
struct Share {
  enum Outcome : std::int64_t { done, failed, interrupted };
  std::int64_t outcome = done;
  std::int64_t rows = 0;
  std::int64_t broken = 0;
  char pictures[32] = {};                 // their fingerprint
  char name[512] = {}, reason[512] = {};  // of the first broken picture; `reason` also of a failure
};

template <std::size_t size>
void set_text(char (&field)[size], const std::string& text) {
  std::copy_n(text.data(), std::min(size - 1, text.size()), field);
}

}  // namespace

FeatureTable extract_features(Context& context, const Vit& vit, const ParameterStore& store, Network network,
                              const ImageSource& images, const FeatureOptions& options,
                              const FeatureProgress& progress) {
  FeatureTable table = extract_what_is_good(context, vit, store, network, images, options, progress);
  require_some(table.rows(), table.broken);
  return table;
}

FeatureTable extract_features(Context& context, Communicator& communicator, const Vit& vit, const ParameterStore& store,
                              Network network, const ImageSource& images, const FeatureOptions& options,
                              const FeatureProgress& progress) {
  const int ranks = communicator.size();
  if (ranks == 1) return extract_features(context, vit, store, network, images, options, progress);
  require(images.size() > 0, "features", "the data set is empty");
  const auto [begin, end] = thread_range(images.size(), communicator.rank(), ranks);
  FeatureTable mine;
  mine.width = options.kind.width(vit.config());
  Share share;
  // Every rank comes to the gathers, whatever has happened to it.
  try {
    std::vector<std::int64_t> indices(static_cast<std::size_t>(end - begin));
    std::iota(indices.begin(), indices.end(), begin);
    if (!indices.empty()) {
      const auto shown = [&](std::int64_t done, std::int64_t, double wait_s) {
        if (progress) progress(std::min(done * ranks, images.size()), images.size(), wait_s);
      };
      mine = extract_what_is_good(context, vit, store, network, Subset(images, std::move(indices)), options, shown);
    }
  } catch (const Interrupted&) {
    mine = {};
    share.outcome = Share::interrupted;
  } catch (const Error& error) {
    mine = {};
    share.outcome = Share::failed;
    set_text(share.reason, error.what());
  }
  share.rows = mine.rows();
  set_text(share.pictures, fingerprint_of(images));
  share.broken = mine.broken.count;
  if (!mine.broken.entries.empty()) {
    set_text(share.name, mine.broken.entries.front().name);
    set_text(share.reason, mine.broken.entries.front().reason);
  }
  std::vector<Share> shares(static_cast<std::size_t>(ranks));
  communicator.all_gather_host(std::as_bytes(std::span(&share, 1)), std::as_writable_bytes(std::span(shares)),
                               "numbers of features");
  FeatureTable table;
  table.width = options.kind.width(vit.config());
  std::int64_t most = 0;
  for (const Share& each : shares) {
    if (each.outcome == Share::interrupted) throw Interrupted();
    most = std::max(most, each.rows);
    table.broken.count += each.broken;
    if (each.broken > 0) table.broken.entries.push_back({.index = 0, .name = each.name, .reason = each.reason});
  }
  for (std::size_t r = 0; r < shares.size(); ++r) {
    require(shares[r].outcome == Share::done, "features", "rank {} failed: {}", r, shares[r].reason);
    require(std::string_view(shares[r].pictures) == shares[0].pictures, "features",
            "rank {} has other pictures than rank 0; got names and classes of checksum {}, expected {}; try the same "
            "data, in the same order, on every rank",
            r, shares[r].pictures, shares[0].pictures);
  }
  require_some(most, table.broken);

  // Rows go from device to device, where there are links for it.
  mine.values.resize(static_cast<std::size_t>(most * table.width));
  const Tensor part = context.from_host(ConstArray(mine.values.data(), Shape{most, table.width}));
  const Tensor all = context.empty({ranks * most, table.width}, DType::float32);
  communicator.all_gather(part.const_array(), all.array(), context.stream(), "features");
  std::vector<float> values(static_cast<std::size_t>(all.size()));
  context.copy_to_host(all, Array(values.data(), all.shape()));
  const auto gather = [&]<typename T>(std::vector<T>& of_mine) {
    of_mine.resize(static_cast<std::size_t>(most));
    std::vector<T> of_all(static_cast<std::size_t>(ranks * most));
    communicator.all_gather_host(std::as_bytes(std::span(of_mine)), std::as_writable_bytes(std::span(of_all)),
                                 "labels of features");
    return of_all;
  };
  for (std::int64_t& sample : mine.samples) sample += begin;
  const auto labels = gather(mine.labels);
  const auto samples = gather(mine.samples);
  for (std::int64_t r = 0; r < ranks; ++r) {
    const std::int64_t rows = shares[static_cast<std::size_t>(r)].rows, first = r * most;
    const auto append = [&](auto& to, const auto& from, std::int64_t width) {
      to.insert(to.end(), from.begin() + first * width, from.begin() + (first + rows) * width);
    };
    append(table.values, values, table.width);
    append(table.labels, labels, 1);
    append(table.samples, samples, 1);
  }
  return table;
}

std::string weights_fingerprint(Context& context, const ParameterStore& store, Network network) {
  const Tensor& flat = network == Network::teacher && store.teacher ? store.teacher : store.student;
  std::vector<float> values(static_cast<std::size_t>(flat.size()));
  context.copy_to_host(flat, Array(values.data(), flat.shape()));
  return fmt::format("{:016x}",
                     stable_hash({reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float)}));
}

std::string describe_broken(const FeatureTable& table) {
  if (table.broken.count == 0) return {};
  const BrokenImage& first = table.broken.entries.front();
  return fmt::format("left out {} of {} images that could not be read, the first: {}", table.broken.count,
                     table.rows() + table.broken.count, printable(first.reason));
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
      if (batch.samples[i] < 0) continue;  // broken
      const std::size_t begin = table.values.size();
      double mean = 0;
      for (std::int64_t j = 0; j < table.width; ++j) mean += pixels[static_cast<std::int64_t>(i) * table.width + j];
      mean /= static_cast<double>(table.width);
      for (std::int64_t j = 0; j < table.width; ++j) {
        table.values.push_back(static_cast<float>(pixels[static_cast<std::int64_t>(i) * table.width + j] - mean));
      }
      finish_features(std::span(table.values).subspan(begin), true, images.name(asked));
      table.labels.push_back(batch.labels[i]);
      table.samples.push_back(asked);
    }
    if (progress) progress(asked, images.size(), loader.total_wait_ms() / 1000.0);
  }
  table.broken = in_order(loader.broken());
  require_some(table.rows(), table.broken);
  return table;
}

}  // namespace dino
