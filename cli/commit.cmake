# cmake -D SOURCE_DIR=… -D OUTPUT=… -P commit.cmake: writes the source of commit() (cli/commit.h). It stays untouched, so that
# nothing is compiled again, until the commit has changed.
set(commit "")
# A copy of the sources inside of another repository has no .git of its own.
if(EXISTS ${SOURCE_DIR}/.git)
  find_package(Git QUIET)
  if(Git_FOUND)
    execute_process(COMMAND ${GIT_EXECUTABLE} rev-parse --short HEAD WORKING_DIRECTORY ${SOURCE_DIR}
      OUTPUT_VARIABLE commit OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
  endif()
endif()
if(NOT commit MATCHES "^[0-9a-f]+$")
  set(commit unknown)
endif()
file(CONFIGURE OUTPUT ${OUTPUT} CONTENT [[
#include "cli/commit.h"

const char* dino::commit() { return "@commit@"; }
]] @ONLY)
