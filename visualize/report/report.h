#pragma once

#include "visualize/report/run_history.h"

#include <filesystem>
#include <string>
#include <vector>

namespace dino {

/// One HTML page about a run, or several side by side: whether they learn, their curves, the film of their pictures,
/// nearest neighbours, warnings, configuration and environment. Self-contained, and of bounded size: a few hundred
/// points a curve, and at most kFilmFrames frames a strip.
std::string make_report(const std::vector<const RunHistory*>& runs);

inline constexpr std::size_t kFilmFrames = 24;

/// Writes make_report() to `path`, atomically.
void write_report(const std::vector<const RunHistory*>& runs, const std::filesystem::path& path);

}  // namespace dino
