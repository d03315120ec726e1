#pragma once

#include "data/image.h"
#include "visualize/colormap.h"

#include <span>
#include <string>
#include <vector>

namespace dino {

/// One cell of `columns` per block of `cell_px` × `cell_px` pixels: nearest-neighbour enlargement.
Image enlarge_cells(std::span<const Rgb> cells, int rows, int columns, int cell_px);

/// share · over + (1 - share) · under, pixel by pixel. The pictures have one size.
Image blend(const Image& under, const Image& over, double share);

/// The picture with every cell whose mask is 0 turned grey and dark.
Image spotlight(const Image& picture, std::span<const float> mask, int columns, int cell_px);

/// The picture with a line of `line_px` pixels around the cells whose mask is not 0, inside of them. The rest stays as
/// it is.
Image outline(const Image& picture, std::span<const float> mask, int columns, int cell_px, int line_px,
              Rgb color = {255, 230, 0});

/// The picture on a strip of white that holds a line of text, cut off where it does not fit.
Image with_caption(const Image& picture, const std::string& caption);

/// The picture reduced by the smallest whole number so that no side exceeds `limit_px`: means of square blocks, the
/// remainder at the bottom and on the right cut off. A side that is shorter than a block becomes one pixel.
Image reduce_to(const Image& picture, int limit_px);

/// Pictures of one size side by side, `columns` in a row, with a margin around each.
Image tile(const std::vector<Image>& pictures, int columns, int margin_px = 4, Rgb background = {255, 255, 255});

/// A sheet with a white strip above it that holds one title over each of its equally wide columns.
Image with_column_titles(const Image& sheet, const std::vector<std::string>& titles);

}  // namespace dino
