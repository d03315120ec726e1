#include "benchmarks/textbook/matmul.h"

#include "benchmarks/textbook/gelu.h"
#include "kernels/matmul/plain_matmul.h"

namespace dino::bench::textbook {

Call MatmulSteps::on_gpu(const MatmulSteps& steps, Stream& stream) {
  const Matmul& args = steps.args;
  if (!args.gelu) return [=, &stream] { cuda::plain_matmul(args, args.y, stream); };
  const auto gelu = GeluForwardSteps::on_gpu({{.x = args.preactivation, .y = args.y}}, stream);
  return [=, &stream] {
    cuda::plain_matmul(args, args.preactivation, stream);
    gelu();
  };
}

}  // namespace dino::bench::textbook
