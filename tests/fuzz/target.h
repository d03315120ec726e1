#pragma once

#include "tests/support/temporary_folder.h"

#include <cstddef>
#include <span>
#include <string_view>

namespace dino::fuzz {

/// What a target does with the bytes of one hostile input. It may succeed or throw dino::Error; anything else - another
/// exception, a crash, a sanitizer's report, too much time or memory - is a finding. Every file of targets/ defines it.
void try_input(std::span<const std::byte> input);

/// Where a target puts the files that it reads; goes away with the process.
const test::TemporaryFolder& folder();

/// Ends the process, as a finding, where what must hold of every input does not.
void expect(bool holds, std::string_view what);

}  // namespace dino::fuzz
