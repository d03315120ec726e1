#include "cli/commands.h"
#include "cli/machine.h"
#include "cli/network_options.h"
#include "cli/output.h"
#include "data/dataset.h"
#include "data/decode.h"
#include "data/png.h"
#include "engine/files.h"
#include "engine/progress.h"
#include "engine/text.h"
#include "evaluate/feature_file.h"
#include "evaluate/near_copies.h"
#include "kernels/common/error.h"
#include "kernels/knn/knn.h"
#include "models/json.h"
#include "train/stop_signal.h"
#include "visualize/contact_sheet.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <memory>

namespace dino {
namespace {

namespace fs = std::filesystem;

/// What the features of a picture are made from.
struct FeatureCommand {
  NetworkOptions network;
  std::string split = "train";
  FeatureKind kind;
  int image_px = 0;
  int short_side_px = 0;
  bool raw = false;
};

void add_feature_options(Command command, FeatureCommand& options) {
  add_network_options(command, options.network, false);
  command.add_option("--split", options.split, "of a data set that has splits: train, val or test")
      .one_of({"train", "val", "test"})
      .capture_default_str();
  command.add_option("--image-size", options.image_px, "side of the centre crop in pixels (default: the network's)")
      .positive();
  command.add_option("--resize", options.short_side_px, "short side before the crop (default: 256/224 of the crop)")
      .positive();
}

FeatureOptions feature_options(const FeatureCommand& options, const VitConfig& config) {
  FeatureOptions features = FeatureOptions::for_image_size(options.image_px > 0 ? options.image_px : config.image_px);
  if (options.short_side_px > 0) features.short_side_px = options.short_side_px;
  features.threads = options.network.threads;
  features.kind = options.kind;
  features.normalized = !options.raw;
  return features;
}

/// Features of every picture of a folder or list; Interrupted after a signal.
NamedFeatures features_of(const std::string& folder, const FeatureCommand& options, OpenNetwork& open) {
  if (options.network.weights.empty() && open.first()) say("weights: {}", open.weights.string());
  const auto images = open_dataset(folder, {.split = options.split});
  NamedFeatures features;
  features.class_names = images->class_names();
  features.recipe = {.weights = open.weights.string(),
                     .network = options.network.network,
                     .fingerprint = weights_fingerprint(*open.context, open.backbone.store, Network::student),
                     .options = feature_options(options, open.backbone.vit.config())};
  {
    Progress bar("images", images->size(), 0, open.first() ? stderr : nullptr);
    bar.update(0);
    features.table = extract_features(*open.context, *open.machine.communicator, open.backbone.vit, open.backbone.store,
                                      Network::student, *images, features.recipe.options,
                                      [&](std::int64_t done, std::int64_t, double wait_s) {
                                        StopSignal::check();
                                        bar.update(done, fmt::format("| waited {:.1f} s for data", wait_s));
                                      });
    if (features.table.broken.count > 0) bar.message("dino_cuda: " + describe_broken(features.table));
  }
  for (const std::int64_t sample : features.table.samples) features.names.push_back(images->name(sample));
  return features;
}

/// Those of the pictures that a file of this name may be: there may be millions, too many to ask the system about each.
void add_pictures_named_like(const fs::path& file, const std::vector<std::string>& pictures,
                             std::vector<std::string>& read) {
  for (const std::string& picture : pictures) {
    if (picture.ends_with(file.filename().string())) read.push_back(picture);
  }
}

int stopped() {
  say("dino_cuda: stopped; nothing was written");
  return 128 + (StopSignal::received() != 0 ? StopSignal::received() : SIGTERM);  // another rank's
}

struct ExportCommand {
  FeatureCommand features;
  std::string folder, out;
  bool json = false;
};

int export_features(const ExportCommand& options) {
  if (const auto status = launch_ranks(options.features.network.launch)) return *status;
  check_feature_path(options.out);
  const StopSignal stop;
  OpenNetwork open(options.features.network);
  for (const fs::path& written : feature_files(options.out))
    require_not_read("features", written, {options.folder, open.weights.string()});
  Communicator& communicator = *open.machine.communicator;
  try {
    // Finds out before the work whether the result can be kept.
    const NamedFeatures features = telling_ranks(communicator, [&] {
      if (open.first()) const AtomicFile trial(options.out);
      return features_of(options.folder, options.features, open);
    });
    communicator.barrier("the end");
    if (!open.first()) return 0;
    const auto written = write_features(options.out, features);
    if (options.json) {
      nlohmann::ordered_json json = {{"weights", features.recipe.weights},
                                     {"images", features.table.rows()},
                                     {"width", features.table.width},
                                     {"classes", features.class_names.size()},
                                     {"broken_images", features.table.broken.count},
                                     {"files", nlohmann::ordered_json::array()}};
      for (const fs::path& file : written) json["files"].push_back(file.string());
      print_json(json);
      return 0;
    }
    report("{}: {} images × {} numbers{}{}", written.front().string(), features.table.rows(), features.table.width,
           features.class_names.empty() ? "" : fmt::format(", {} classes", features.class_names.size()),
           written.size() > 1 ? fmt::format("; paths and labels: {}", written.back().string()) : "");
    return 0;
  } catch (const Interrupted&) {
    return stopped();
  }
}

struct SearchCommand {
  NetworkOptions network;
  std::vector<std::string> queries;
  std::string features;
  std::string output = "nearest.png";
  int count = 8;
  int tile_px = 112;
  bool json = false;
};

/// Pictures named on the command line.
class PictureFiles final : public ImageSource {
 public:
  explicit PictureFiles(const std::vector<std::string>& paths) : paths_(paths) {}
  std::int64_t size() const override { return static_cast<std::int64_t>(paths_.size()); }
  void decode(std::int64_t index, Image& image) const override { decode_image_file(name(index), {}, image); }
  std::int32_t label(std::int64_t) const override { return -1; }
  std::string name(std::int64_t index) const override { return paths_.at(static_cast<std::size_t>(index)); }

 private:
  const std::vector<std::string>& paths_;
};

struct Found {
  std::string path;
  double similarity;
};

/// The same file under another name is no find.
bool same_file(const fs::path& a, const fs::path& b) {
  std::error_code error;
  return fs::equivalent(a, b, error);
}

int search(SearchCommand options) {
  const NamedFeatures known = read_features(options.features);
  require(known.recipe.options.normalized, "search",
          "the features of {} were written with --raw, so they have no cosines; try `dino_cuda features` without it",
          options.features);
  if (options.network.weights.empty()) options.network.weights = known.recipe.weights;
  options.network.network = known.recipe.network;
  OpenNetwork open(options.network);
  Context& context = *open.context;
  const std::string fingerprint = weights_fingerprint(context, open.backbone.store, Network::student);
  require(fingerprint == known.recipe.fingerprint, "search",
          "{} was made with other weights than {} holds now; try `dino_cuda features` again, or --weights with those "
          "of then",
          options.features, open.weights.string());
  std::vector<std::string> read = options.queries;
  read.insert(read.end(), {options.features, open.weights.string()});
  add_pictures_named_like(options.output, known.names, read);
  require_not_read("search", options.output, read);
  require_extension("search", options.output, ".png");
  { const AtomicFile trial(options.output); }

  FeatureOptions features = known.recipe.options;
  features.threads = 1;
  const FeatureTable asked = extract_features(context, open.backbone.vit, open.backbone.store, Network::student,
                                              PictureFiles(options.queries), features);
  require(asked.broken.count == 0, "search", "{}", describe_broken(asked));
  // Room for the queries themselves.
  const std::int64_t wanted =
      std::min<std::int64_t>(known.table.rows(), options.count + static_cast<std::int64_t>(options.queries.size()));
  const Tensor bank = context.from_host(known.table.array()), queries = context.from_host(asked.array());
  std::vector<std::vector<Found>> found(options.queries.size());
  for (std::size_t q = 0; q < options.queries.size(); ++q) {
    const Tensor query = queries.rows(static_cast<std::int64_t>(q), static_cast<std::int64_t>(q) + 1);
    const Tensor similarities = context.empty({1, wanted}, DType::float32);
    const Tensor indices = context.empty({1, wanted}, DType::int32);
    nearest_neighbors({.queries = query.array(),
                       .bank = bank.array(),
                       .similarities = similarities.array(),
                       .indices = indices.array()},
                      context.stream());
    std::vector<float> values(static_cast<std::size_t>(wanted));
    std::vector<std::int32_t> places(values.size());
    context.copy_to_host(similarities, Array(values.data(), similarities.shape()));
    context.copy_to_host(indices, Array(places.data(), indices.shape()));
    for (std::size_t i = 0; i < values.size() && found[q].size() < static_cast<std::size_t>(options.count); ++i) {
      if (places[i] < 0) continue;
      const std::string& path = known.names[static_cast<std::size_t>(places[i])];
      if (!same_file(path, options.queries[q])) found[q].push_back({path, static_cast<double>(values[i])});
    }
  }

  std::vector<std::vector<SheetPicture>> sheet;
  for (std::size_t q = 0; q < found.size(); ++q) {
    std::vector<SheetPicture> row{{options.queries[q], "query"}};
    for (const Found& f : found[q]) row.push_back({f.path, fmt::format("{:.3f}", f.similarity)});
    sheet.push_back(std::move(row));
  }
  const Image picture = contact_sheet(sheet, options.tile_px, context.stream());
  write_png(options.output, picture.rgb, picture.height, picture.width, 3);

  if (options.json) {
    nlohmann::ordered_json json = nlohmann::ordered_json::array();
    for (std::size_t q = 0; q < found.size(); ++q) {
      json.push_back({{"query", options.queries[q]}, {"nearest", nlohmann::ordered_json::array()}});
      for (const Found& f : found[q])
        json.back()["nearest"].push_back({{"path", f.path}, {"similarity", f.similarity}});
    }
    print_json(json);
    return 0;
  }
  for (std::size_t q = 0; q < found.size(); ++q) {
    fmt::print("{}\n", printable(options.queries[q]));
    for (const Found& f : found[q]) fmt::print("  {:.4f}  {}\n", f.similarity, printable(f.path));
  }
  fmt::print("sheet: {}\n", printable(options.output));
  return 0;
}

struct DedupeCommand {
  FeatureCommand features;
  std::string folder, file, sheet;
  double threshold = 0.98;
  bool json = false;
};

void write_group_sheet(const std::string& path, const std::vector<CopyGroup>& groups, const NamedFeatures& features) {
  constexpr std::size_t kMaxGroups = 20, kMaxPictures = 8;
  std::vector<std::vector<SheetPicture>> rows;
  for (const CopyGroup& group : groups) {
    if (rows.size() == kMaxGroups) break;
    rows.emplace_back();
    for (std::size_t i = 0; i < std::min(kMaxPictures, group.rows.size()); ++i)
      rows.back().push_back(
          {features.names[static_cast<std::size_t>(group.rows[i])],
           i == 0 ? fmt::format("{} alike", group.rows.size()) : fmt::format("{:.3f}", group.similarity[i])});
  }
  const auto stream = make_cpu_stream();
  const Image picture = contact_sheet(rows, 112, *stream);
  write_png(path, picture.rgb, picture.height, picture.width, 3);
}

int dedupe(const DedupeCommand& options) {
  require(options.folder.empty() != options.file.empty(), "dedupe", "give either a folder or --features FILE; got {}",
          options.folder.empty() ? "neither" : "both");
  if (!options.sheet.empty()) {
    require_not_read("dedupe", options.sheet, {options.file, options.features.network.weights});
    require_extension("dedupe", options.sheet, ".png");
    const AtomicFile trial(options.sheet);
  }
  const StopSignal stop;
  try {
    const auto made = [&] {
      OpenNetwork open(options.features.network);
      return features_of(options.folder, options.features, open);
    };
    const NamedFeatures features = options.file.empty() ? made() : read_features(options.file);
    require(features.recipe.options.normalized, "dedupe",
            "the features of {} were written with --raw, so they have no cosines; try `dino_cuda features` without it",
            options.file);
    if (!options.sheet.empty()) {
      std::vector<std::string> read{options.file, features.recipe.weights};
      add_pictures_named_like(options.sheet, features.names, read);
      require_not_read("dedupe", options.sheet, read);
    }
    const auto context = open_machine(options.features.network.device, options.features.network.threads);
    std::vector<CopyGroup> groups;
    {
      Progress bar("pairs", features.table.rows());
      groups = find_near_copies(*context, features.table.values, features.table.width, options.threshold,
                                [&](std::int64_t done) {
                                  StopSignal::check();
                                  bar.update(done);
                                });
    }
    std::size_t more = 0;
    for (const CopyGroup& group : groups) more += group.rows.size() - 1;
    if (!options.sheet.empty() && !groups.empty()) write_group_sheet(options.sheet, groups, features);
    if (options.json) {
      nlohmann::ordered_json json = {{"images", features.table.rows()},
                                     {"threshold", options.threshold},
                                     {"copies", more},
                                     {"groups", nlohmann::ordered_json::array()}};
      for (const CopyGroup& group : groups) {
        json["groups"].push_back(nlohmann::ordered_json::array());
        for (std::size_t i = 0; i < group.rows.size(); ++i)
          json["groups"].back().push_back(
              {{"path", features.names[static_cast<std::size_t>(group.rows[i])]}, {"similarity", group.similarity[i]}});
      }
      print_json(json);
      return 0;
    }
    for (const CopyGroup& group : groups) {
      for (std::size_t i = 0; i < group.rows.size(); ++i)
        fmt::print("{}{:.4f}  {}\n", i == 0 ? "" : "  ", group.similarity[i],
                   printable(features.names[static_cast<std::size_t>(group.rows[i])]));
    }
    fmt::print(
        "{} images: {} groups of near copies (cosine {} and above), {} images beyond the first of each; nothing "
        "was deleted\n",
        features.table.rows(), groups.size(), options.threshold, more);
    if (!options.sheet.empty() && !groups.empty())
      fmt::print("sheet of the largest groups: {}\n", printable(options.sheet));
    return 0;
  } catch (const Interrupted&) {
    return stopped();
  }
}

}  // namespace

void add_features_command(Command app, Run& run) {
  const Command command = app.add_subcommand(
      "features",
      "Write what a network makes of every picture: one row of numbers each, with path and class.\n\n"
      "  dino_cuda features my/images --out features.safetensors       for search and dedupe, and for Python\n"
      "  dino_cuda features my/images --out features.npy               NumPy, with paths in features.csv\n"
      "  dino_cuda features my/images --out numbers.csv                for a spreadsheet\n"
      "  dino_cuda features my/images --out f.npy --blocks 4 --raw     what the linear classifiers see\n");
  auto options = std::make_shared<ExportCommand>();
  command.add_option("images", options->folder, "folder of pictures, or a list of them").required().type_name("DIR");
  command.add_option("--out", options->out, "file to write: .safetensors, .npy or .csv").required().type_name("FILE");
  add_feature_options(command, options->features);
  add_shared_network_options(command, options->features.network);
  command.add_option("--blocks", options->features.kind.blocks, "CLS tokens of the last so many blocks, side by side")
      .positive()
      .capture_default_str();
  command.add_flag("--average-patches", options->features.kind.average_patches,
                   "also the mean of the patch tokens, interleaved");
  command.add_flag("--raw", options->features.raw, "do not bring the rows to length 1");
  add_json_option(command, options->json);
  command.callback([options, &run] { run = [options] { return export_features(*options); }; });
}

void add_search_command(Command app, Run& run) {
  const Command command = app.add_subcommand(
      "search",
      "Find the pictures that a network finds most similar to others: a list, and a sheet with a row for each "
      "query.\n\n"
      "  dino_cuda features my/images --out features.safetensors\n"
      "  dino_cuda search photo.jpg other.png --features features.safetensors --output nearest.png\n");
  auto options = std::make_shared<SearchCommand>();
  command.add_option("queries", options->queries, "pictures to find the like of")
      .required()
      .existing_file()
      .type_name("IMAGE");
  command.add_option("--features", options->features, "written by `dino_cuda features`, as .safetensors")
      .required()
      .type_name("FILE");
  command.add_option("--weights", options->network.weights, "default: those that the features were made with")
      .type_name("FILE");
  add_foreign_weights_options(command, options->network);
  command.add_option("--output", options->output, "PNG of the sheet").type_name("FILE").capture_default_str();
  command.add_option("--count", options->count, "pictures to find for each query; the query itself is left out")
      .positive()
      .capture_default_str();
  command.add_option("--tile", options->tile_px, "side of a picture on the sheet in pixels")
      .in_range(16, 1024)
      .capture_default_str();
  add_device_option(command, options->network.device);
  add_json_option(command, options->json);
  command.callback([options, &run] { run = [options] { return search(*options); }; });
}

void add_dedupe_command(Command app, Run& run) {
  const Command command = app.add_subcommand(
      "dedupe",
      "List groups of pictures that are nearly the same: the cosine of their features reaches a threshold. Deletes "
      "nothing.\n\n"
      "  dino_cuda dedupe my/images --threshold 0.98 --sheet copies.png\n"
      "  dino_cuda dedupe --features features.safetensors --json > copies.json\n\n"
      "Look at the sheet before you trust a threshold: how alike two pictures must be depends on the network.\n");
  auto options = std::make_shared<DedupeCommand>();
  command.add_option("images", options->folder, "folder of pictures, or a list of them").type_name("DIR");
  command.add_option("--features", options->file, "instead of a folder: written by `dino_cuda features`")
      .type_name("FILE");
  add_feature_options(command, options->features);
  command.add_option("--threshold", options->threshold, "least cosine of two near copies")
      .in_range(0.0, 1.0)
      .positive()
      .capture_default_str();
  command.add_option("--sheet", options->sheet, "PNG of the largest groups: at most 20, and 8 pictures of each")
      .type_name("FILE");
  add_json_option(command, options->json);
  command.callback([options, &run] { run = [options] { return dedupe(*options); }; });
}

}  // namespace dino
