#pragma once

namespace dino {

/// The commit that the program was built from, short; "unknown" where it was not built in a work tree of git. The build
/// writes its source when the commit has changed (commit.cmake).
const char* commit();

}  // namespace dino
