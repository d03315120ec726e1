#pragma once

#include "selftest/kernel_checks.h"
#include "selftest/recordings.h"

namespace dino {

/// The features of the recorded backbone for pictures of every recorded size.
SelfChecks check_forward(Context& context, const Recordings& recordings);

/// The recorded training run, step by step: logits and gradients of the first step; losses, centers and gradient norms
/// of all; the student's and the teacher's (EMA) weights at the end. In fp32, and with wider bounds in bf16. On a GPU
/// also that steps were replayed from a recorded graph.
SelfChecks check_training(Context& context, const TrainingRecording& recording);

/// All of it: kernels, forward, training.
SelfChecks run_self_test(Context& context, const Recordings& recordings, const SelfTestProgress& progress = {});

}  // namespace dino
