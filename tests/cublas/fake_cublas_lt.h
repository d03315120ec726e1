#pragma once

#include <functional>

namespace dino::cuda {
struct CublasLtApi;
}

namespace dino::test {

/// cuBLASLt as its documentation describes it, on host memory: column-major matrices, leading dimensions, transposes,
/// bias along the rows of D, sums in fp32. Throws Error for arguments that the documentation does not allow, for
/// addresses that are less aligned than was promised when the kernel was chosen, and when a reduction could round to
/// the result's type. Has no kernel for bf16 at odd addresses, so that what is done then is tested too.
const cuda::CublasLtApi& fake_cublas_lt();

/// How many products it has done.
int fake_cublas_lt_products();

/// What puts a product on a stream (cudaStream_t); at first it is done at once.
using FakeCublasRunner = std::function<void(void* stream, const std::function<void()>& product)>;
void run_fake_products_by(FakeCublasRunner runner);

}  // namespace dino::test
