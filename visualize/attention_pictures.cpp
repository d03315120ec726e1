#include "visualize/attention_pictures.h"

#include "data/crop_plan.h"
#include "data/png.h"
#include "engine/files.h"
#include "visualize/drawing.h"
#include "visualize/lettering.h"

#include <algorithm>
#include <charconv>

namespace dino {
namespace {

constexpr int kMean = -1;

/// Every so many pixels of a picture's longest side, a line is one pixel thick.
constexpr int kPixelsOfALine = 160;

std::string name_of_head(int head, const AttentionPictureOptions& options) {
  return head == kMean ? options.mean_name : "head" + std::to_string(head);
}

std::string title_of_head(int head, const AttentionPictureOptions& options) {
  return head == kMean ? options.mean_name : fmt::format("head {}", head);
}

Image heat_map(const AttentionMaps& maps, int head, const AttentionPictureOptions& options) {
  return enlarge_cells(map_colors(options.colors, maps.map_of(head)), maps.rows, maps.columns, maps.patch_px);
}

/// Any size to another, bilinear.
Image resized(const Image& picture, int height, int width, Stream& stream) {
  CropPlan plan{.height = picture.height,
                .width = picture.width,
                .resized_height = height,
                .resized_width = width,
                .output_height = height,
                .output_width = width,
                .filter = ResizeFilter::bilinear};
  Image image;
  image.resize(height, width);
  augment_crop({.image = picture.array(), .plan = plan, .output = image.array()}, stream);
  return image;
}

/// An empty place on the sheet, of the size of the other pictures, that says what stands to the right of it.
Image caption(const Image& size_of, const std::string& text) {
  Image image = size_of;
  std::fill(image.rgb.begin(), image.rgb.end(), std::uint8_t{255});
  const int scale = letter_scale(image.width);
  draw_text(image, (image.width - text_width(text, scale)) / 2, (image.height - scale * kLetterHeight_px) / 2, text,
            scale);
  return image;
}

}  // namespace

std::vector<int> select_heads(std::string_view text, int heads) {
  if (text == "mean") return {kMean};
  std::vector<int> selected;
  if (text == "all") {
    for (int head = 0; head < heads; ++head) selected.push_back(head);
    selected.push_back(kMean);
    return selected;
  }
  int head = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), head);
  require(error == std::errc() && end == text.data() + text.size() && head >= 0 && head < heads, "attention",
          "there is no head {}; expected all, mean or a number from 0 to {}", text, heads - 1);
  return {head};
}

std::vector<std::string> attention_picture_names(const std::string& stem, int heads,
                                                 const AttentionPictureOptions& options) {
  std::vector<std::string> names{stem + "_input.png"};
  for (const int head : options.heads.empty() ? select_heads("all", heads) : options.heads) {
    for (const char* kind : {"", "_overlay", "_mask", "_contour"})
      names.push_back(fmt::format("{}_{}{}.png", stem, name_of_head(head, options), kind));
  }
  names.push_back(stem + "_sheet.png");
  return names;
}

std::vector<std::filesystem::path> write_attention_pictures(const AttentionMaps& maps, const Image& prepared,
                                                            const std::filesystem::path& folder,
                                                            const std::string& stem,
                                                            const AttentionPictureOptions& options) {
  require(prepared.height == maps.rows * maps.patch_px && prepared.width == maps.columns * maps.patch_px, "attention",
          "got a picture of {}×{} pixels for {}×{} patches of {} pixels", prepared.height, prepared.width, maps.rows,
          maps.columns, maps.patch_px);
  make_output_folder(folder);
  const std::vector<int> heads = options.heads.empty() ? select_heads("all", maps.heads) : options.heads;

  std::vector<std::filesystem::path> paths;
  const auto write = [&](const std::string& name, const Image& image) {
    paths.push_back(folder / (stem + "_" + name + ".png"));
    write_png(paths.back(), image.rgb, image.height, image.width, 3);
  };
  const auto small = [&](const Image& image) { return reduce_to(image, options.sheet_tile_px); };

  write("input", prepared);
  std::vector<Image> map_row{small(prepared)};
  std::vector<Image> overlay_row{caption(map_row[0], "overlay")};
  std::vector<Image> mask_row{caption(map_row[0], "mask")};
  std::vector<Image> contour_row{caption(map_row[0], "contour")};
  std::vector<std::string> titles{"input"};
  for (const int head : heads) {
    require(head >= kMean && head < maps.heads, "attention", "there is no head {}; the network has {}", head,
            maps.heads);
    const std::string name = name_of_head(head, options);
    const Image map = heat_map(maps, head, options);
    const Image overlay = blend(prepared, map, options.overlay_share);
    write(name, map);
    write(name + "_overlay", overlay);
    map_row.push_back(small(map));
    titles.push_back(title_of_head(head, options));
    overlay_row.push_back(small(overlay));
    if (const auto mask = maps.mask_of(head); !mask.empty()) {
      const Image masked = spotlight(prepared, mask, maps.columns, maps.patch_px);
      write(name + "_mask", masked);
      mask_row.push_back(small(masked));
      if (options.contours) {
        const int line_px = 1 + std::max(prepared.height, prepared.width) / kPixelsOfALine;
        const Image contour = outline(prepared, mask, maps.columns, maps.patch_px, line_px);
        write(name + "_contour", contour);
        contour_row.push_back(small(contour));
      }
    }
  }
  const int columns = static_cast<int>(map_row.size());
  std::vector<Image> sheet = std::move(map_row);
  sheet.insert(sheet.end(), overlay_row.begin(), overlay_row.end());
  if (static_cast<int>(mask_row.size()) == columns) sheet.insert(sheet.end(), mask_row.begin(), mask_row.end());
  if (static_cast<int>(contour_row.size()) == columns)
    sheet.insert(sheet.end(), contour_row.begin(), contour_row.end());
  write("sheet", with_column_titles(tile(sheet, columns), titles));
  return paths;
}

Image attention_overlay(const AttentionMaps& maps, const Image& prepared, int head,
                        const AttentionPictureOptions& options) {
  return blend(prepared, heat_map(maps, head, options), options.overlay_share);
}

Image comparison_sheet(const std::vector<ComparedAttention>& networks, const AttentionPictureOptions& options,
                       Stream& stream) {
  require(!networks.empty(), "attention", "there is nothing to compare");
  int columns = 0;
  for (const ComparedAttention& network : networks) columns = std::max(columns, network.maps.heads + 2);
  const Image first = reduce_to(networks[0].prepared, options.sheet_tile_px);
  const auto fitted = [&](const Image& image) {
    return image.height == first.height && image.width == first.width
               ? image
               : resized(image, first.height, first.width, stream);
  };
  std::vector<Image> tiles;
  for (const ComparedAttention& network : networks) {
    tiles.push_back(with_caption(fitted(network.prepared), network.name));
    std::vector<int> heads;
    for (int head = 0; head < network.maps.heads; ++head) heads.push_back(head);
    heads.push_back(kMean);
    for (const int head : heads)
      tiles.push_back(with_caption(fitted(attention_overlay(network.maps, network.prepared, head, options)),
                                   title_of_head(head, options)));
    while (tiles.size() % static_cast<std::size_t>(columns) != 0) {
      Image white = first;
      std::fill(white.rgb.begin(), white.rgb.end(), std::uint8_t{255});
      tiles.push_back(with_caption(white, ""));
    }
  }
  return tile(tiles, columns);
}

}  // namespace dino
