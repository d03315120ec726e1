#include "engine/context_cuda.h"
#include "kernels/common/cuda/check.h"
#include "kernels/common/cuda/cublas_lt_api.h"
#include "tests/cublas/fake_cublas_lt.h"
#include "tests/cudart/fake_cudart.h"
#include "tests/support/catch.h"
#include "tests/support/every_context.h"

namespace dino::simt {

/// Kernels are a stream's work like any other. Their launch makes the stream's device current (launch.h).
void submit(Stream& stream, std::function<void()> work) {
  cuda::use_device(stream.ordinal());
  test::put_on_stream(static_cast<cudaStream_t>(stream.handle()), std::move(work));
}

}  // namespace dino::simt

namespace dino::cuda {

const CublasLtApi& cublas_lt_library() {
  test::run_fake_products_by([](void* stream, const std::function<void()>& product) {
    test::put_on_stream(static_cast<cudaStream_t>(stream), product);
  });
  return test::fake_cublas_lt();
}

}  // namespace dino::cuda

namespace dino::test {

void every_context(const std::function<void(Context&)>& body) {
  const std::pair<DeviceSpeed, const char*> speeds[] = {{DeviceSpeed::late, "late"},
                                                        {DeviceSpeed::shuffled, "in any order"}};
  for (const auto& [speed, name] : speeds) {
    INFO("the CUDA back end on the host, work done " << name);
    reset_fake_cuda();
    fake_cuda().speed = speed;
    body(*make_cuda_context(0, 0.5));
  }
  fake_cuda().speed = DeviceSpeed::late;
}

}  // namespace dino::test
