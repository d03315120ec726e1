#define CATCH_CONFIG_MAIN
#include "tests/support/catch.h"

#if DINO_TESTS_CATCH2_MAJOR >= 3
int main(int argc, char** argv) { return Catch::Session().run(argc, argv); }
#endif
