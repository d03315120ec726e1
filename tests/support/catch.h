#pragma once

// Catch2 2.x (Debian 12) and 3.x name their headers differently.
#if DINO_TESTS_CATCH2_MAJOR >= 3
#include <catch2/catch_all.hpp>
using Catch::Approx;
#else
#include <catch2/catch.hpp>
#endif
