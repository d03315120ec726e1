#pragma once

#include "engine/context.h"
#include "engine/tape.h"

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace dino {

/// How a parameter starts. Draws depend on the seed and the parameter's name only.
struct Initializer {
  enum class Kind : std::uint8_t { zeros, ones, truncated_normal, uniform };
  Kind kind = Kind::zeros;
  double scale = 0;  // standard deviation (cut at ±2, as PyTorch's trunc_normal_), or bound of the uniform distribution
};

/// Names one parameter of a ParameterLayout. Obtained from add() or find(), never computed.
class ParameterId {
 public:
  bool operator==(const ParameterId&) const = default;

 private:
  friend class ParameterLayout;
  friend class Weights;
  explicit ParameterId(std::size_t index) : index_(index) {}
  std::size_t index_;
};

struct ParameterInfo {
  std::string name;  // the official checkpoint's: `backbone.blocks.0.attn.qkv.weight`
  Shape shape;
  Initializer initializer;
  bool gemm_weight = false;  // read by GEMMs in the compute type: bf16 runs keep a working copy
  bool trainable = true;
  std::int64_t offset = 0;  // first element in the flat arrays; a multiple of 16

  std::int64_t size() const { return shape.size(); }
  /// Weight decay applies to what is neither a bias nor one-dimensional (official utils.py:632-643).
  bool decayed() const { return shape.rank() > 1 && !std::string_view(name).ends_with(".bias"); }
};

/// The names, shapes and places of a network's parameters in one flat array. Windows are padded to 16 elements, so
/// that every one starts on a cache line in fp32; the padding stays zero.
class ParameterLayout {
 public:
  /// Throws Error when the name is taken.
  ParameterId add(std::string name, const Shape& shape, Initializer initializer, bool gemm_weight = false,
                  bool trainable = true);
  std::optional<ParameterId> find(std::string_view name) const;
  const ParameterInfo& operator[](ParameterId id) const { return infos_[id.index_]; }

  const std::vector<ParameterInfo>& infos() const { return infos_; }
  std::vector<ParameterId> ids() const;
  /// Elements of the flat arrays, padding included.
  std::int64_t flat_size() const { return flat_size_; }
  /// Sum of the parameters' sizes.
  std::int64_t parameter_count() const;

 private:
  std::vector<ParameterInfo> infos_;
  std::int64_t flat_size_ = 0;
};

/// Everything that training keeps per parameter, as flat arrays of layout.flat_size() elements on one device. `working`
/// arrays exist in bf16 runs only. Teacher, gradient and moments exist when asked for.
struct ParameterStore {
  enum class Role { inference, training };

  ParameterStore(Context& context, const ParameterLayout& layout, DType compute_type, Role role);

  /// Fills student and teacher with the initial values; the same for every device and number of ranks.
  void initialize(std::uint64_t seed);
  /// Recomputes the working copies from the fp32 values, after these were written from outside.
  void refresh_working_copies();

  /// Window of a flat array, in the parameter's shape.
  Tensor window(const Tensor& flat, ParameterId id) const;

  Context& context;
  const ParameterLayout& layout;
  DType compute_type;      // float32 or bfloat16
  Tensor student;          // fp32
  Tensor student_working;  // bf16
  Tensor teacher;          // fp32; training only, as all that follow
  Tensor teacher_working;  // bf16
  Tensor gradient;         // fp32
  Tensor first_moment;     // fp32: Adam's m, or the momentum of SGD and LARS
  Tensor second_moment;    // fp32: Adam's v
};

/// One network's parameters for one pass over a tape: what models read their weights from.
class Weights {
 public:
  /// The student, with gradients when the tape records. `mode` is overwrite for the first micro-batch of a step and
  /// accumulate for the following ones.
  static Weights student(Tape& tape, const ParameterStore& store, GradientMode mode = GradientMode::overwrite);
  /// The teacher: no gradients. In a store without teacher, use student() on an inference tape.
  static Weights teacher(Tape& tape, const ParameterStore& store);

  /// The parameter as a tensor in its shape: the compute type for GEMM weights, fp32 for all others.
  Tensor operator()(ParameterId id);
  /// Rows [begin, end) of the parameter's first dimension, as a variable of its own. A parameter is used either whole
  /// or by rows on one tape, and the row ranges must not overlap.
  Tensor rows(ParameterId id, std::int64_t begin, std::int64_t end);

  DType compute_type() const { return store_->compute_type; }
  const ParameterLayout& layout() const { return store_->layout; }
  Tape& tape() { return *tape_; }

 private:
  struct Bound {
    std::size_t index;
    std::int64_t begin, end;
    Tensor tensor;
  };

  Weights(Tape& tape, const ParameterStore& store, const Tensor& values, const Tensor& working, const Tensor& gradient,
          GradientMode mode);

  Tape* tape_;
  const ParameterStore* store_;
  Tensor values_, working_, gradient_;
  GradientMode mode_;
  std::vector<Bound> bound_;
};

}  // namespace dino
