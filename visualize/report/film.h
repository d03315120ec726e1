#pragma once

#include "data/dataset.h"
#include "train/student_teacher.h"
#include "visualize/colormap.h"

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace dino {

/// Draws, as a run goes on, how its teacher sees the same few pictures, into the folder that film_files.h describes.
/// What it costs is bounded: kFilmPictures pictures of at most kFilmPatches² patches each, and the features of at most
/// 1000 pictures (an eighth of the data set, where that is fewer than 1000 and more than 256).
class Film {
 public:
  static constexpr std::int64_t kPictures = 4;
  static constexpr std::int64_t kNeighbours = 5;
  static constexpr int kMinPatches = 16, kMaxPatches = 28;  // along a side
  static constexpr int kTile_px = 96;

  /// `images` must outlive the film. `class_names` may be empty.
  Film(const ImageSource& images, std::vector<std::string> class_names, const TrainConfig& config,
       std::filesystem::path folder);

  /// Removes the frames after so many epochs, which a resumed run draws again; -1: all.
  void remove_frames_after(std::int64_t epochs) const;
  /// Draws the frames of after so many epochs. Pictures that cannot be drawn are left out: a network that has
  /// collapsed has no principal components. Throws Interrupted after a signal, and Error where nothing can be written
  /// or no picture be read.
  void draw(Context& context, StudentTeacher& networks, std::int64_t epochs);

 private:
  void choose_pictures();
  void draw_attention(Context& context, StudentTeacher& networks, std::int64_t epochs) const;
  void draw_components(Context& context, StudentTeacher& networks, std::int64_t epochs) const;
  void draw_neighbours(Context& context, StudentTeacher& networks, std::int64_t epochs) const;
  std::string class_name(std::int64_t index) const;

  const ImageSource& images_;
  std::vector<std::string> class_names_;
  TrainConfig config_;
  std::filesystem::path folder_;
  std::vector<std::int64_t> chosen_;  // numbers of the pictures
  std::vector<Image> pictures_;       // as the network sees them: square
  std::vector<std::int64_t> bank_;    // numbers of the pictures among which neighbours are sought
};

/// Colours of the same cells in one epoch and the next. Principal components have no sign, and those of like variance
/// no order: of the 48 ways to exchange and invert the channels of `colors`, takes the one that correlates best with
/// `before`, so that a part keeps its colour as long as the network keeps seeing it alike. Throws Error where the
/// numbers of cells differ.
std::vector<Rgb> align_colors(const std::vector<Rgb>& colors, const std::vector<Rgb>& before);

}  // namespace dino
