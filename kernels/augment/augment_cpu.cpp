#include "kernels/augment/augment.h"

namespace dino::cpu {

void augment_crop(const AugmentCrop& args, Stream&) { reference::augment_crop(args); }

}  // namespace dino::cpu
