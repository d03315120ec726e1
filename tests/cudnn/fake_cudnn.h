#pragma once

#include "benchmarks/cudnn_api.h"

#include <string>
#include <vector>

namespace dino::test {

/// A cuDNN that computes graphs on the host, in double with a rounding at each tensor, and refuses what the
/// documentation does not allow: attributes of another type or count, what is not finalised, tensors that do not go
/// together, values that nothing has written, addresses that are not aligned.
struct FakeCudnn {
  /// What create and the finalisation of every plan return, if it is to fail.
  cudnnStatus_t create_status = CUDNN_STATUS_SUCCESS, plan_status = CUDNN_STATUS_SUCCESS;
  double wrong_by = 0;               // is added, relatively, to what graphs and softmax write
  int handles = 0, descriptors = 0;  // alive
  int plans_refused = 0, executions = 0, softmaxes = 0;
  std::string last_error;

  static bench::cudnn::Api api();
};

/// The one that is in use; made anew for each test.
FakeCudnn& fake_cudnn();
void reset_fake_cudnn();

}  // namespace dino::test
