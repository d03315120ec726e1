#pragma once

#include "data/download.h"

namespace dino {

/// What an archive may grow to, so that a damaged or hostile one does not fill the disk.
struct UnpackLimits {
  std::int64_t bytes = std::int64_t{4} << 30;
  std::int64_t entries = 1'000'000;
};

/// Unpacks a .zip, .tar or .tar.gz into `folder`, which is made and must not exist. Only folders and regular files come
/// out of it, all inside `folder`: absolute names, names with "..", links, devices and names that come twice are
/// refused, as is what goes beyond `limits`. Modes, owners and times are not taken over. Throws Error and removes
/// `folder` again; so does what `progress` throws.
void unpack_archive(const std::filesystem::path& archive, const std::filesystem::path& folder,
                    const ByteProgress& progress = {}, const UnpackLimits& limits = {});

}  // namespace dino
