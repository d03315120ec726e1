#include "kernels/cast/cast.h"

namespace dino::reference {

void cast(const Cast& args) {
  for (std::int64_t i = 0; i < args.x.size(); ++i) store_double(args.y, i, load_double(args.x, i));
}

}  // namespace dino::reference
