// A stand-in for the driver's library, with the few functions that cuDNN calls between its heuristics and a finished
// plan. It takes every kernel that cuDNN has compiled and runs none.
#include <cstddef>

extern "C" {
int cuInit(unsigned) { return 100; }  // CUDA_ERROR_NO_DEVICE
int cuDriverGetVersion(int* version) {
  *version = 13000;
  return 0;
}
int cuDeviceGetCount(int* count) {
  *count = 0;
  return 0;
}
int cuGetErrorString(int, const char** text) {
  *text = "an error of the stand-in";
  return 0;
}
int cuGetErrorName(int, const char** text) {
  *text = "STAND_IN";
  return 0;
}
int cuLibraryLoadData(void** library, const void* code, void*, void*, unsigned, void*, void*, unsigned) {
  static int loaded = 0;
  *library = &loaded;
  return code == nullptr ? 1 : 0;
}
int cuLibraryUnload(void*) { return 0; }
int cuLibraryGetKernel(void** kernel, void* library, const char* name) {
  static int found = 0;
  *kernel = &found;
  return library == nullptr || name == nullptr ? 1 : 0;
}

// What it only looks for.
#define DINO_REFUSED(name) \
  int name() { return 801; }  // CUDA_ERROR_NOT_SUPPORTED
DINO_REFUSED(cuDeviceGet)
DINO_REFUSED(cuCtxGetCurrent)
DINO_REFUSED(cuCtxGetLimit)
DINO_REFUSED(cuCtxPopCurrent)
DINO_REFUSED(cuCtxPushCurrent)
DINO_REFUSED(cuKernelGetAttribute)
DINO_REFUSED(cuKernelSetAttribute)
DINO_REFUSED(cuLaunchCooperativeKernel)
DINO_REFUSED(cuLaunchKernel)
DINO_REFUSED(cuLaunchKernelEx)
DINO_REFUSED(cuLibraryLoadFromFile)
DINO_REFUSED(cuLinkAddData)
DINO_REFUSED(cuLinkComplete)
DINO_REFUSED(cuLinkCreate)
DINO_REFUSED(cuLinkDestroy)
DINO_REFUSED(cuOccupancyMaxPotentialClusterSize)
DINO_REFUSED(cuStreamGetCtx)
#undef DINO_REFUSED
}
