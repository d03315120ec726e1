#include "models/backbone.h"

namespace dino {

Backbone::Backbone(Context& context, const WeightsFile& file, DType compute_type)
    : vit(layout, file.config()), store(context, layout, compute_type, ParameterStore::Role::inference) {
  file.load(store);
}

}  // namespace dino
