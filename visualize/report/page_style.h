#pragma once

namespace dino {

/// The report's CSS: light and dark as the reader's system asks, always light on paper.
extern const char* const kPageStyle;
/// The report's script. It only adds: values under the pointer, a film that plays, parts that open for the printer.
extern const char* const kPageScript;

}  // namespace dino
