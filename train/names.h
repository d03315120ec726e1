#pragma once

#include <span>
#include <string_view>
#include <vector>

namespace dino {

/// Another word for something: what other programs call it, and its name here.
struct Synonym {
  std::string_view said, meant;
};

/// The entry of `known` that `word` was probably meant to be: the nearest one, also by what others call it, or nothing
/// where none is near.
std::string_view probable_name(std::string_view word, const std::vector<std::string_view>& known,
                               std::span<const Synonym> synonyms = {});

/// What keys of the configuration are called in the official script and elsewhere.
std::span<const Synonym> synonyms_of_keys();

}  // namespace dino
