#pragma once

#include <cudnn.h>

namespace dino::bench::cudnn {

/// The functions of cuDNN that are used here, by address: the program neither links with it nor needs it.
struct Api {
  decltype(&::cudnnGetVersion) version;
  decltype(&::cudnnGetErrorString) error_string;
  decltype(&::cudnnGetLastErrorString) last_error;
  decltype(&::cudnnCreate) create;
  decltype(&::cudnnDestroy) destroy;
  decltype(&::cudnnSetStream) set_stream;
  decltype(&::cudnnBackendCreateDescriptor) descriptor_create;
  decltype(&::cudnnBackendDestroyDescriptor) descriptor_destroy;
  decltype(&::cudnnBackendSetAttribute) set_attribute;
  decltype(&::cudnnBackendGetAttribute) get_attribute;
  decltype(&::cudnnBackendFinalize) finalize;
  decltype(&::cudnnBackendExecute) execute;
  decltype(&::cudnnCreateTensorDescriptor) tensor_create;
  decltype(&::cudnnSetTensor4dDescriptor) tensor_set;
  decltype(&::cudnnDestroyTensorDescriptor) tensor_destroy;
  decltype(&::cudnnSoftmaxForward) softmax;
};

/// The installed cuDNN 9: beside the program (lib/), from the toolkit, or where the system's loader finds it. Throws
/// Error saying where it was looked for.
Api open_library();
/// The same, opened at the first call; tests bring their own.
const Api& library();

}  // namespace dino::bench::cudnn
