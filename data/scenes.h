#pragma once

#include "data/scene_drawing.h"

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>

namespace dino {

/// A data set drawn from what any Debian or Ubuntu can install: cut-out photographs (package tuxpaint-stamps-default)
/// on blurred photographs (mate-backgrounds, lomiri-wallpapers, …), with the object's mask known to the pixel.
struct SceneOptions {
  std::filesystem::path out;
  std::filesystem::path stamps = "/usr/share/tuxpaint/stamps";
  std::filesystem::path backgrounds = "/usr/share/backgrounds";  // every JPEG below it
  /// Which cut-outs, and of which class: lines `path<tab>class` after one header line. Empty: the built-in table,
  /// data/stamps.tsv, of 247 photographic ones in 11 classes.
  std::filesystem::path table;
  SceneStyle style;
  int train_per_stamp = 24;
  int val_per_stamp = 4;
  int test_per_stamp = 4;
  int max_stamps = 0;  // 0: all; else the first so many of the table
  std::uint64_t seed = 0;
  int threads = 0;  // 0: as many as the machine has
};

struct SceneSummary {
  int stamps = 0;
  int missing_stamps = 0;  // in the table, not on this machine
  int classes = 0;
  int photographs = 0;
  std::int64_t scenes = 0;
};

/// Draws the scenes into a new folder:
///   {train,val,test}/CLASS__STAMP/NNN.png   open_dataset() takes the stamp, the identity of the object, as the class
///   masks/{val,test}/CLASS__STAMP/NNN.png   8-bit grey: how much of each pixel the object covers
///   classes.tsv                             folder<tab>CLASS, one line per stamp
/// Scene NNN of a stamp depends on the seed, the style, the stamp and the photographs alone, not on threads or other
/// stamps. The folder appears under its name when all is drawn. `progress(done, total)` may be called from any thread,
/// one at a time. Throws Error: out exists, packages missing (with the command that installs them), options out of
/// range.
SceneSummary make_scenes(const SceneOptions& options,
                         const std::function<void(std::int64_t, std::int64_t)>& progress = {});

/// data/stamps.tsv, compiled in.
std::string_view built_in_stamps();

}  // namespace dino
