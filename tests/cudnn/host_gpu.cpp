#include "tests/cudnn/host_gpu.h"

#include "kernels/attention/attention.h"
#include "kernels/attention/cls_attention.h"
#include "kernels/dino_loss/dino_loss.h"
#include "kernels/layer_norm/layer_norm.h"

namespace dino {
namespace cuda {

void attention_forward(const AttentionForward& args, Stream& stream) { cpu::attention_forward(args, stream); }
void attention_backward(const AttentionBackward& args, Stream& stream) { cpu::attention_backward(args, stream); }
void cls_attention_forward(const ClsAttentionForward& args, Stream& stream) {
  cpu::cls_attention_forward(args, stream);
}
void cls_attention_backward(const ClsAttentionBackward& args, Stream& stream) {
  cpu::cls_attention_backward(args, stream);
}
void layer_norm_forward(const LayerNormForward& args, Stream& stream) { cpu::layer_norm_forward(args, stream); }
void layer_norm_backward(const LayerNormBackward& args, Stream& stream) { cpu::layer_norm_backward(args, stream); }
void dino_loss_with_gradient(const DinoLossWithGradient& args, Stream& stream) {
  cpu::dino_loss_with_gradient(args, stream);
}

}  // namespace cuda

namespace test {
namespace {

class HostGpuStream final : public HostMemoryStream {
 public:
  HostGpuStream() : HostMemoryStream(Device::cuda, 0, nullptr) {}
  void* scratch(std::size_t size_bytes) override {
    if (scratch_.size() < size_bytes) scratch_ = AlignedBuffer(size_bytes);
    return scratch_.data();
  }

 private:
  AlignedBuffer scratch_;
};

class HostArena final : public Arena {
 public:
  HostArena() : memory_(std::size_t{1} << 30) { set_range(memory_.data(), memory_.size()); }

 private:
  void commit(std::size_t) override {}

  AlignedBuffer memory_;
};

}  // namespace

std::unique_ptr<Context> make_host_gpu() {
  return std::make_unique<Context>(std::make_unique<HostGpuStream>(), std::make_shared<HostArena>());
}

}  // namespace test
}  // namespace dino
