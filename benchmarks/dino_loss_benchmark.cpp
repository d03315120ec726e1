// The loss with its gradient for all views: each logit is to be read once, each gradient written once.
#include "kernels/dino_loss/dino_loss.h"

#include "benchmarks/benchmark.h"
#include "benchmarks/cudnn_reference.h"
#include "benchmarks/textbook/dino_loss.h"
#include "benchmarks/textbook/textbook.h"

#include <fmt/format.h>

namespace dino::bench {
namespace {

Prepared prepare(Bench& bench) {
  const Workload& w = bench.workload();
  const std::int64_t rows = w.sequences(), teacher_rows = w.images * w.globals;
  const DinoLossWithGradient args{.student = bench.values({rows, w.prototypes}),
                                  .teacher = bench.values({teacher_rows, w.prototypes}),
                                  .center = bench.values(DType::float32, {w.prototypes}),
                                  .images = static_cast<int>(w.images),
                                  .student_gradient = bench.zeros(bench.dtype(), {rows, w.prototypes}),
                                  .loss = bench.zeros(DType::float32, {1}),
                                  .teacher_entropy = bench.zeros(DType::float32, {1}),
                                  .kl = bench.zeros(DType::float32, {1}),
                                  .teacher_sum = bench.zeros(DType::float32, {w.prototypes})};
  Stream& stream = bench.stream();
  Prepared prepared{.size = fmt::format("{} + {} x {}", rows, teacher_rows, w.prototypes),
                    .run = [=, &stream] { dino_loss_with_gradient(args, stream); },
                    .outputs = {args.loss, args.student_gradient, args.teacher_sum}};
  textbook::add(bench, prepared,
                textbook::DinoLossSteps{.args = args,
                                        .teacher = bench.zeros(DType::float32, {teacher_rows, w.prototypes}),
                                        .student = bench.zeros(DType::float32, {rows, w.prototypes}),
                                        .row_losses = bench.zeros(DType::float32, {rows})});
  cudnn::add(bench, prepared, "cuDNN softmax, gradient alone", &cudnn::dino_loss_gradient, args,
             {args.student_gradient});
  return prepared;
}

const Registered kLoss{{.operation = "dino_loss", .pass = "with gradient", .prepare = prepare}};

}  // namespace
}  // namespace dino::bench
