#pragma once

#include "engine/communicator.h"
#include "engine/tape.h"

namespace dino {

/// Batch norm of x (R, C) over the rows of all ranks, biased variance, eps inside the root: training mode. gamma, beta:
/// (C) fp32. `statistics`, where given, is (2, C) fp32: the batch's mean and unbiased variance, for running averages.
Tensor batch_norm(Tape& tape, const Tensor& x, const Tensor& gamma, const Tensor& beta, double eps,
                  Communicator& communicator, const Tensor& statistics = {});

}  // namespace dino
