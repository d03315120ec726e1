#include "visualize/report/film.h"

#include "data/decode.h"
#include "data/jpeg.h"
#include "data/png.h"
#include "engine/files.h"
#include "evaluate/features.h"
#include "evaluate/held_out.h"
#include "kernels/common/error.h"
#include "models/json.h"
#include "train/stop_signal.h"
#include "visualize/attention_pictures.h"
#include "visualize/contact_sheet.h"
#include "visualize/drawing.h"
#include "visualize/patch_pca.h"
#include "visualize/report/film_files.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>
#include <system_error>

namespace dino {
namespace {

namespace fs = std::filesystem;

constexpr int kQuality = 80;
constexpr int kTriesPerPicture = 20;  // where the chosen one is broken

/// Side of the square in which the network sees the pictures: as in training, but of patches enough to see something.
int side_px(const TrainConfig& config) {
  constexpr int kMaxSide_px = 448;
  const int most = std::max(1, std::min(Film::kMaxPatches, kMaxSide_px / config.patch_size));
  const int least = std::min(Film::kMinPatches, most);
  return config.patch_size * std::clamp(config.global_crops_size / config.patch_size, least, most);
}

/// Pictures of one width below each other.
Image stack(const std::vector<Image>& pictures) {
  Image column;
  column.width = pictures.at(0).width;
  for (const Image& picture : pictures) {
    column.height += picture.height;
    column.rgb.insert(column.rgb.end(), picture.rgb.begin(), picture.rgb.end());
  }
  return column;
}

/// Pictures of one height side by side.
Image row_of(const std::vector<Image>& pictures) { return tile(pictures, static_cast<int>(pictures.size()), 0); }

void write_bytes(const fs::path& path, const std::vector<std::byte>& bytes) {
  AtomicFile file(path);
  file.write(bytes);
  file.commit();
}

void write_json(const fs::path& path, const nlohmann::ordered_json& json) {
  AtomicFile file(path);
  file.write(json_text(json) + "\n");
  file.commit();
}

/// Colours of the cells of the newest frame before `epochs`; empty where there is none of this size.
std::vector<Rgb> colors_before(const fs::path& folder, std::int64_t epochs, std::size_t cells, int columns,
                               int cell_px) {
  std::vector<FilmFrame> frames = film_frames(folder, "components", "png", 0);
  std::erase_if(frames, [&](const FilmFrame& frame) { return frame.epochs >= epochs; });
  if (frames.empty()) return {};
  Image image;
  try {
    decode_image_file(frames.back().file, {}, image);
  } catch (const Error&) {
    return {};
  }
  const std::size_t cell_area = static_cast<std::size_t>(cell_px) * static_cast<std::size_t>(cell_px);
  if (image.width != columns * cell_px || image.rgb.size() != 3 * cells * cell_area) return {};
  std::vector<Rgb> colors(cells);
  for (std::size_t i = 0; i < cells; ++i) {
    const std::size_t y = i / static_cast<std::size_t>(columns) * static_cast<std::size_t>(cell_px),
                      x = i % static_cast<std::size_t>(columns) * static_cast<std::size_t>(cell_px);
    const std::uint8_t* pixel = image.rgb.data() + 3 * (y * static_cast<std::size_t>(image.width) + x);
    colors[i] = {pixel[0], pixel[1], pixel[2]};
  }
  return colors;
}

Weights teacher_weights(Tape& tape, StudentTeacher& networks) { return Weights::teacher(tape, networks.store()); }

}  // namespace

std::vector<Rgb> align_colors(const std::vector<Rgb>& colors, const std::vector<Rgb>& before) {
  require(colors.size() == before.size(), "film", "got {} cells, expected {}", colors.size(), before.size());
  const auto n = static_cast<double>(std::max<std::size_t>(1, colors.size()));
  std::array<double, 3> mean{}, mean_before{}, square{}, square_before{};
  for (std::size_t i = 0; i < colors.size(); ++i) {
    for (std::size_t c = 0; c < 3; ++c) {
      mean[c] += colors[i][c] / n;
      mean_before[c] += before[i][c] / n;
    }
  }
  std::array<std::array<double, 3>, 3> product{};  // of channel a now and channel b before
  for (std::size_t i = 0; i < colors.size(); ++i) {
    for (std::size_t a = 0; a < 3; ++a) {
      const double now = colors[i][a] - mean[a];
      square[a] += now * now;
      square_before[a] += (before[i][a] - mean_before[a]) * (before[i][a] - mean_before[a]);
      for (std::size_t b = 0; b < 3; ++b) product[a][b] += now * (before[i][b] - mean_before[b]);
    }
  }
  const auto correlation = [&](std::size_t a, std::size_t b) {
    return product[a][b] / std::sqrt(std::max(1e-12, square[a] * square_before[b]));
  };
  std::array<std::size_t, 3> order{0, 1, 2}, best{0, 1, 2};
  double best_sum = -1;
  do {
    double sum = 0;
    for (std::size_t b = 0; b < 3; ++b) sum += std::abs(correlation(order[b], b));
    if (sum > best_sum + 1e-9) {
      best_sum = sum;
      best = order;
    }
  } while (std::next_permutation(order.begin(), order.end()));
  std::vector<Rgb> aligned(colors.size());
  for (std::size_t b = 0; b < 3; ++b) {
    const bool inverted = correlation(best[b], b) < 0;
    for (std::size_t i = 0; i < colors.size(); ++i) {
      const std::uint8_t value = colors[i][best[b]];
      aligned[i][b] = inverted ? static_cast<std::uint8_t>(255 - value) : value;
    }
  }
  return aligned;
}

Film::Film(const ImageSource& images, std::vector<std::string> class_names, const TrainConfig& config, fs::path folder)
    : images_(images), class_names_(std::move(class_names)), config_(config), folder_(std::move(folder)) {}

std::string Film::class_name(std::int64_t index) const {
  const std::int32_t label = images_.label(index);
  return label >= 0 && static_cast<std::size_t>(label) < class_names_.size()
             ? class_names_[static_cast<std::size_t>(label)]
             : std::string();
}

void Film::remove_frames_after(std::int64_t epochs) const {
  constexpr const char* kKinds[][2] = {{"attention", "jpg"}, {"components", "png"}, {"neighbours", "json"}};
  std::error_code ignored;
  for (const auto& [kind, extension] : kKinds) {
    for (const FilmFrame& frame : film_frames(folder_, kind, extension, 0)) {
      if (frame.epochs > epochs) fs::remove(frame.file, ignored);
    }
  }
}

void Film::choose_pictures() {
  const std::int64_t size = images_.size(), wanted = std::min(kPictures, size);
  const std::unique_ptr<Stream> stream = make_cpu_stream();
  std::vector<Image> shown;
  nlohmann::ordered_json names = nlohmann::ordered_json::array();
  Image picture;
  for (std::int64_t i = 0; i < wanted; ++i) {
    // From the middle of each part: the first pictures of a class are often the odd ones.
    const std::int64_t first = (2 * i + 1) * size / (2 * wanted), end = std::min((i + 1) * size / wanted, size);
    for (std::int64_t at = first; at < std::min(end, first + kTriesPerPicture); ++at) {
      try {
        images_.decode(at, picture);
      } catch (const Error&) {
        continue;
      }
      chosen_.push_back(at);
      pictures_.push_back(thumbnail(picture, side_px(config_), *stream));
      shown.push_back(thumbnail(picture, kTile_px, *stream));
      names.push_back({{"name", images_.name(at)}, {"class", class_name(at)}});
      break;
    }
  }
  require(!chosen_.empty(), "film", "none of the chosen pictures can be read");
  make_output_folder(folder_);
  write_bytes(folder_ / "pictures.jpg", to_jpeg(stack(shown), kQuality));
  write_json(folder_ / "film.json", {{"pictures", names}});

  std::vector<std::int64_t> all(static_cast<std::size_t>(size));
  std::iota(all.begin(), all.end(), std::int64_t{0});
  bank_ = evenly_chosen(all, std::clamp<std::int64_t>(size / 8, 256, 1000));
}

void Film::draw(Context& context, StudentTeacher& networks, std::int64_t epochs) {
  if (chosen_.empty()) choose_pictures();
  draw_attention(context, networks, epochs);
  draw_components(context, networks, epochs);
  draw_neighbours(context, networks, epochs);
}

void Film::draw_attention(Context& context, StudentTeacher& networks, std::int64_t epochs) const {
  const std::unique_ptr<Stream> stream = make_cpu_stream();
  std::vector<Image> tiles;
  for (const Image& picture : pictures_) {
    Tape tape(context, Tape::Mode::inference);
    Weights weights = teacher_weights(tape, networks);
    const AttentionMaps maps = compute_attention(networks.vit(), weights, picture, {.threshold = 0});
    tiles.push_back(thumbnail(attention_overlay(maps, picture, -1), kTile_px, *stream));
  }
  write_bytes(film_file(folder_, "attention", epochs, "jpg"), to_jpeg(stack(tiles), kQuality));
}

void Film::draw_components(Context& context, StudentTeacher& networks, std::int64_t epochs) const {
  std::vector<PatchTokens> tokens;
  for (const Image& picture : pictures_) {
    Tape tape(context, Tape::Mode::inference);
    Weights weights = teacher_weights(tape, networks);
    tokens.push_back(patch_tokens(networks.vit(), weights, picture));
  }
  std::vector<Rgb> colors;
  try {
    for (const auto& of_picture : color_patches(tokens, false).colors)
      colors.insert(colors.end(), of_picture.begin(), of_picture.end());
  } catch (const Error&) {
    return;  // the tokens vary in fewer than three directions
  }
  const int columns = tokens[0].columns, rows = tokens[0].rows * static_cast<int>(tokens.size());
  const int cell_px = std::max(1, kTile_px / columns);
  const std::vector<Rgb> before = colors_before(folder_, epochs, colors.size(), columns, cell_px);
  if (!before.empty()) colors = align_colors(colors, before);
  const Image picture = enlarge_cells(colors, rows, columns, cell_px);
  write_png(film_file(folder_, "components", epochs, "png"), picture.rgb, picture.height, picture.width, 3);
}

void Film::draw_neighbours(Context& context, StudentTeacher& networks, std::int64_t epochs) const {
  FeatureOptions options = FeatureOptions::for_image_size(config_.global_crops_size);
  options.threads = config_.num_workers;
  const auto features = [&](const ImageSource& images) {
    return extract_features(context, networks.vit(), networks.store(), Network::teacher, images, options,
                            [](std::int64_t, std::int64_t, double) { StopSignal::check(); });
  };
  const FeatureTable asked = features(Subset(images_, chosen_)), known = features(Subset(images_, bank_));
  const std::unique_ptr<Stream> stream = make_cpu_stream();
  nlohmann::ordered_json rows = nlohmann::ordered_json::array();
  Image picture;
  for (std::int64_t q = 0; q < asked.rows(); ++q) {
    const std::int64_t query = chosen_[static_cast<std::size_t>(asked.samples[static_cast<std::size_t>(q)])];
    std::vector<std::pair<double, std::int64_t>> found;  // cosine, number of the picture
    for (std::int64_t i = 0; i < known.rows(); ++i) {
      const std::int64_t index = bank_[static_cast<std::size_t>(known.samples[static_cast<std::size_t>(i)])];
      if (index == query) continue;
      const float *a = asked.values.data() + q * asked.width, *b = known.values.data() + i * known.width;
      found.emplace_back(std::inner_product(a, a + asked.width, b, 0.0), index);
    }
    const auto count = std::min<std::ptrdiff_t>(kNeighbours, static_cast<std::ptrdiff_t>(found.size()));
    std::partial_sort(found.begin(), found.begin() + count, found.end(), std::greater<>());
    found.resize(static_cast<std::size_t>(count));
    found.insert(found.begin(), {1.0, query});

    std::vector<Image> tiles;
    nlohmann::ordered_json names = nlohmann::ordered_json::array();
    for (const auto& [similarity, index] : found) {
      images_.decode(index, picture);
      tiles.push_back(thumbnail(picture, kTile_px, *stream));
      names.push_back({{"name", images_.name(index)}, {"class", class_name(index)}, {"similarity", similarity}});
    }
    // Rows of a small data set end in grey, so that the captions below them keep their places.
    while (tiles.size() < kNeighbours + 1) {
      tiles.push_back(tiles[0]);
      std::fill(tiles.back().rgb.begin(), tiles.back().rgb.end(), std::uint8_t{128});
    }
    write_bytes(film_file(folder_, "neighbours", epochs, fmt::format("{}.jpg", q)), to_jpeg(row_of(tiles), kQuality));
    rows.push_back(names);
  }
  write_json(film_file(folder_, "neighbours", epochs, "json"), {{"rows", rows}});
}

}  // namespace dino
