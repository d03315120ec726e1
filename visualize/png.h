#pragma once

// Pictures are written by data/png.h, which the drawn scenes of data/ need as well.
#include "data/png.h"
