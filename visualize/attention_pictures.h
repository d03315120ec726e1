#pragma once

#include "visualize/attention.h"
#include "visualize/colormap.h"

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace dino {

/// What `all`, `mean` or a head's number stand for: heads from 0, -1 for the mean of all, which comes last. Throws
/// Error for anything else.
std::vector<int> select_heads(std::string_view text, int heads);

struct AttentionPictureOptions {
  std::vector<int> heads = {};  // see select_heads(); empty for all heads and the mean
  double overlay_share = 0.6;   // of the colours in an overlay
  int sheet_tile_px = 240;      // longest side of a picture on the contact sheet
  ColorMap colors = ColorMap::heat;
  bool contours = false;           // also outline the masks
  std::string mean_name = "mean";  // what the mean of the heads is called in titles and names of files
};

/// Writes PNG files into `folder`, which is made where it is missing, and returns their paths, the sheet last:
///   STEM_input.png          the picture as the network saw it
///   STEM_head0.png …        attention in colours from the map's smallest to its largest value, one block per patch
///   STEM_head0_overlay.png  these colours over the picture
///   STEM_head0_mask.png     the picture, dark where the threshold mask is 0; only when masks were made
///   STEM_head0_contour.png  the picture with a line around the mask; only with `contours`, and when masks were made
///   STEM_mean.png …         the same for the mean of the heads
///   STEM_sheet.png          all of them: one titled column per head; maps, overlays and masks below each other
std::vector<std::filesystem::path> write_attention_pictures(const AttentionMaps& maps, const Image& prepared,
                                                            const std::filesystem::path& folder,
                                                            const std::string& stem,
                                                            const AttentionPictureOptions& options = {});

/// The names of all files that write_attention_pictures() may write for a network of so many heads.
std::vector<std::string> attention_picture_names(const std::string& stem, int heads,
                                                 const AttentionPictureOptions& options = {});

/// The colours of a head (-1: the mean of all) over the picture, as in STEM_head0_overlay.png.
Image attention_overlay(const AttentionMaps& maps, const Image& prepared, int head,
                        const AttentionPictureOptions& options = {});

/// What one network sees in a picture: a row of comparison_sheet().
struct ComparedAttention {
  std::string name;
  Image prepared;
  AttentionMaps maps;
};

/// One row for each network: the picture as it saw it, with the network's name, then the overlay of each head and of
/// the mean. Networks may differ in heads and patches.
Image comparison_sheet(const std::vector<ComparedAttention>& networks, const AttentionPictureOptions& options,
                       Stream& stream);

}  // namespace dino
