#include "train/names.h"

#include "train/config.h"

#include <algorithm>
#include <cstddef>
#include <limits>

namespace dino {
namespace {

constexpr Synonym kSynonymsOfKeys[] = {
    // The official script's.
    {"use_fp16", "precision"},
    // What others say.
    {"amp", "precision"},
    {"fp16", "precision"},
    {"bf16", "precision"},
    {"mixed_precision", "precision"},
    {"dtype", "precision"},
    {"learning_rate", "lr"},
    {"base_lr", "lr"},
    {"wd", "weight_decay"},
    {"num_epochs", "epochs"},
    {"max_epochs", "epochs"},
    {"batch_size", "batch_size_per_gpu"},
    {"accum_iter", "accumulation"},
    {"gradient_accumulation_steps", "accumulation"},
    {"model", "arch"},
    {"backbone", "arch"},
    {"pretrained", "init"},
    {"pretrained_weights", "init"},
    {"weights", "init"},
    {"checkpoint", "init"},
    {"dataset", "data_path"},
    {"data_dir", "data_path"},
    {"workers", "num_workers"},
    {"gpu", "device"},
    {"heads", "num_heads"},
    {"width", "embed_dim"},
    {"prototypes", "out_dim"},
    {"image_size", "global_crops_size"},
    {"img_size", "global_crops_size"},
    {"crop_size", "global_crops_size"},
};

/// Edit distance of Levenshtein. Hyphens, underscores and spaces are the same.
std::size_t edit_distance(std::string_view a, std::string_view b) {
  const auto letter = [](char c) { return c == '-' || c == ' ' ? '_' : c; };
  // One row of the table at a time.
  std::vector<std::size_t> row(b.size() + 1);
  for (std::size_t j = 0; j < row.size(); ++j) row[j] = j;
  for (std::size_t i = 0; i < a.size(); ++i) {
    std::size_t diagonal = row[0];
    row[0] = i + 1;
    for (std::size_t j = 0; j < b.size(); ++j) {
      const std::size_t replaced = diagonal + (letter(a[i]) == letter(b[j]) ? 0 : 1);
      diagonal = row[j + 1];
      row[j + 1] = std::min({replaced, row[j] + 1, row[j + 1] + 1});
    }
  }
  return row.back();
}

struct Nearest {
  std::string_view name;
  std::size_t distance = std::numeric_limits<std::size_t>::max();
};

Nearest nearest_of(std::string_view word, const std::vector<std::string_view>& known,
                   std::span<const Synonym> synonyms) {
  Nearest best;
  const auto consider = [&](std::string_view said, std::string_view meant, std::size_t distance) {
    // A name that the word begins is meant more often than one that merely is as short.
    if (!word.empty() && said.starts_with(word)) distance = 0;
    if (distance < best.distance) best = {meant, distance};
  };
  for (const std::string_view name : known) consider(name, name, edit_distance(word, name));
  for (const Synonym& synonym : synonyms) {
    if (std::find(known.begin(), known.end(), synonym.meant) == known.end()) continue;
    consider(synonym.said, synonym.meant, edit_distance(word, synonym.said));
  }
  return best;
}

}  // namespace

std::string_view nearest_name(std::string_view word, const std::vector<std::string_view>& known) {
  return nearest_of(word, known, {}).name;
}

std::string_view probable_name(std::string_view word, const std::vector<std::string_view>& known,
                               std::span<const Synonym> synonyms) {
  const Nearest nearest = nearest_of(word, known, synonyms);
  // Two slips of the hand, or one in three letters of a long word.
  return nearest.distance <= std::max<std::size_t>(2, word.size() / 3) ? nearest.name : std::string_view();
}

std::span<const Synonym> synonyms_of_keys() { return kSynonymsOfKeys; }

}  // namespace dino
