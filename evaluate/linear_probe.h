#pragma once

#include "engine/communicator.h"
#include "engine/context.h"
#include "models/safetensors.h"

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace dino {

struct LinearProbeOptions {
  std::vector<double> learning_rates{0.001, 0.003, 0.01, 0.03, 0.1};  // one classifier each; for batches of 256
  int epochs = 100;
  int batch = 128;  // of one rank; as the official script's on one device
  double momentum = 0.9;
  std::uint64_t seed = 0;

  /// Throws Error where a number makes no sense.
  void check() const;
};

/// What one classifier gets right, in percent. A classifier whose numbers have left the finite ones gets nothing right.
struct LinearScore {
  double top1 = 0;
  double top5 = 0;  // among the first min(5, K)
};

/// Linear classifiers on frozen features, one for each learning rate, all trained on the same batches: the features,
/// which cost the most, are computed once for all. Each is what it would be alone. K classes, width C, L rates.
///
/// Cross-entropy; SGD with momentum and no decay; rate λ · batch · ranks / 256 · (1 + cos(π epoch / epochs)) / 2;
/// weights N(0, 0.01), the same for each rate, biases 0. Source: official eval_linear.py:84-102, 236-260.
/// Products run on the context's device, softmax on the host.
///
/// Ranks share a step's rows and hold the same classifiers to the last bit: every rank calls step() and evaluate().
class LinearProbe {
 public:
  LinearProbe(Context& context, Communicator& communicator, std::int64_t width, int classes,
              const LinearProbeOptions& options);
  LinearProbe(const LinearProbe&) = delete;
  LinearProbe& operator=(const LinearProbe&) = delete;

  int count() const { return static_cast<int>(options_.learning_rates.size()); }
  int classes() const { return classes_; }
  std::int64_t width() const { return width_; }
  /// The rate of a classifier in an epoch, as the optimiser has it.
  double learning_rate(int classifier, std::int64_t epoch) const;

  /// One step of every classifier on this rank's rows (B, C) with their labels, all on the host; `all_rows` of all
  /// ranks. There may be none on a rank. Returns what this rank's rows add to the mean loss of each before the step.
  std::vector<double> step(std::span<const float> rows, std::span<const std::int32_t> labels, std::int64_t all_rows,
                           std::int64_t epoch);

  /// The score of each classifier on rows (n, C), which every rank has.
  std::vector<LinearScore> evaluate(std::span<const float> rows, std::span<const std::int32_t> labels);

  /// Copies of `weights` (L, K, C), `biases` (L, K) and their momentum, for a file.
  struct State {
    std::vector<float> parameters, momentum;  // L·K·C weights, then L·K biases
  };
  State state();
  /// Throws Error where the sizes are others.
  void set_state(const State& state);
  /// Names for the parts of `state`, which must outlive them.
  std::vector<NamedArray> arrays_of(const State& state) const;
  State state_of(const SafetensorsFile& file) const;

 private:
  Tensor weights(const Tensor& flat) const;  // (L·K, C)
  Tensor biases(const Tensor& flat) const;   // (L·K)
  Tensor logits(std::span<const float> rows, std::int64_t count, Tensor& x);
  /// Writes the gradient of this rank's rows and adds their share to each `loss`.
  void differentiate(std::span<const float> rows, std::span<const std::int32_t> labels, std::int64_t all_rows,
                     std::vector<double>& loss);

  Context& context_;
  Communicator& communicator_;
  LinearProbeOptions options_;
  std::int64_t width_;
  int classes_;
  Tensor parameters_, gradient_, momentum_;  // L·K·C + L·K fp32
  std::vector<float> host_logits_, host_gradient_;
};

}  // namespace dino
