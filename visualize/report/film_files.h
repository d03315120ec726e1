#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace dino {

/// The folder RUN/film holds small pictures that show how the teacher sees the same few pictures as it learns:
///   film.json                 which pictures: {"pictures": [{"name", "class"}]}
///   pictures.jpg              they themselves, one below the other
///   attention_NNNN.jpg        the attention of the CLS token over them, after NNNN epochs (0000: untrained)
///   components_NNNN.png       three principal components of their patches as colours
///   neighbours_NNNN.Q.jpg     picture Q and the pictures nearest to it, side by side
///   neighbours_NNNN.json      their names: {"rows": [[{"name", "class", "similarity"}]]}, the query first
///   epochs.jsonl              one line an epoch: what drawing cost, and broken pictures

/// `attention_0007.jpg`
std::filesystem::path film_file(const std::filesystem::path& folder, const std::string& kind, std::int64_t epochs,
                                const std::string& extension);

struct FilmFrame {
  std::int64_t epochs = 0;  // that had ended
  std::filesystem::path file;
};

/// Frames of one kind in the order of the epochs, at most `limit` of them: evenly chosen, the first and the last among
/// them. Other files are ignored.
std::vector<FilmFrame> film_frames(const std::filesystem::path& folder, const std::string& kind,
                                   const std::string& extension, std::size_t limit);

/// A picture as a film's files name it.
struct FilmPicture {
  std::string name, class_name;
  double similarity = 1;
};

/// The pictures of film.json; empty where it cannot be read.
std::vector<FilmPicture> film_pictures(const std::filesystem::path& folder);

/// Rows of neighbours_NNNN.json; empty where it cannot be read.
std::vector<std::vector<FilmPicture>> film_neighbours(const std::filesystem::path& file);

}  // namespace dino
