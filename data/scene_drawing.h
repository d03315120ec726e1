#pragma once

#include "data/decode.h"
#include "engine/random.h"

#include <vector>

namespace dino {

/// How a scene looks; lengths are shares of the scene's side. Each pair is a range that is drawn from evenly.
struct SceneStyle {
  int size_px = 96;
  double fill_min = 0.70;  // larger side of the turned cut-out
  double fill_max = 0.98;
  double rotation_deg = 15.0;  // to either side
  double mirror = 0.5;         // probability
  double blur_min = 0.02;      // standard deviation of the background's Gaussian blur
  double blur_max = 0.06;
};

/// A cut-out ready for drawing: its opaque part, RGB times alpha, alpha, (height, width, 4) in 0..1.
struct CutOut {
  int height = 0;
  int width = 0;
  std::vector<float> rgba;
};

/// Cuts `image` down to its opaque part and shrinks it to at most `max_side_px`, averaging areas. Empty (0×0) when
/// nothing is opaque.
CutOut prepare_cut_out(const RgbaImage& image, int max_side_px);

struct Scene {
  Image image;                     // (size, size, 3)
  std::vector<std::uint8_t> mask;  // (size, size): how much of the pixel the cut-out covers, 255 is all
};

/// Pastes the cut-out, turned and perhaps mirrored, at a random place on a blurred random square of one of the
/// photographs. All of the cut-out is inside the frame. Depends on the arguments alone.
Scene draw_scene(const CutOut& cut_out, const std::vector<Image>& photographs, const SceneStyle& style, Random random);

}  // namespace dino
