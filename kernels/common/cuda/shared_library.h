#pragma once

#include "kernels/common/error.h"

#include <dlfcn.h>

#include <string>
#include <string_view>

namespace dino {

/// A library of NVIDIA's that is opened when it is first needed, so that the program starts without it. Never closed:
/// its kernels may still be on a device when the program ends.
class SharedLibrary {
 public:
  /// `name`: `libnccl.so.2`. Throws Error, beginning with [where], saying that `what` cannot be loaded, why, and where
  /// else it may be; `or_else` is a last advice, or empty.
  SharedLibrary(const char* where, const char* name, std::string_view what, std::string_view or_else = "")
      : where_(where), name_(name) {
    // The loader looks along the program's own path first, which holds lib/ beside it and the toolkit it was built with.
    handle_ = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    if (handle_ != nullptr) return;
    const std::string reason = dlerror();
    handle_ = dlopen((std::string("/usr/local/cuda/lib64/") + name).c_str(), RTLD_NOW | RTLD_LOCAL);
    require(handle_ != nullptr, where,
            "cannot load {}: {}; try a bundle (scripts/bundle.sh), which brings it along, or LD_LIBRARY_PATH=FOLDER "
            "with the folder that holds {}{}",
            what, reason, name, or_else);
  }

  template <typename Function>
  void find(const char* symbol, Function& function) const {
    function = reinterpret_cast<Function>(dlsym(handle_, symbol));
    require(function != nullptr, where_, "{} has no function {}", name_, symbol);
  }

 private:
  const char* where_;
  const char* name_;
  void* handle_ = nullptr;
};

}  // namespace dino
