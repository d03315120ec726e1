#pragma once

#include "engine/context.h"
#include "engine/tensor.h"
#include "kernels/common/gradient_mode.h"

#include <functional>
#include <initializer_list>
#include <string_view>
#include <vector>

namespace dino {

/// Where a backward kernel puts a gradient, and whether it writes or adds.
struct GradientTarget {
  Tensor tensor;  // empty when mode is ignore
  GradientMode mode = GradientMode::ignore;
};

/// Records what each operation needs for its gradient while a network runs forward, and plays it back in reverse order
/// of recording. One tape serves one forward and backward pass.
///
/// An operation on tensors looks like this:
///
///     Tensor gelu(Tape& tape, const Tensor& x) {
///       Tensor y = tape.output(x.shape(), x.dtype(), {&x});
///       gelu_forward({.x = x.array(), .y = y.array()}, tape.stream());
///       tape.record("gelu", y, [x](Tape& tape, const Tensor& dy) {
///         const GradientTarget dx = tape.gradient_target(x);
///         gelu_backward({.x = x.array(), .dy = dy.array(), .dx = dx.tensor.array(), .mode = dx.mode}, tape.stream());
///       });
///       return y;
///     }
///
/// Tensors captured by a record live until it has been played; their memory then serves later gradients.
class Tape {
 public:
  /// What backward is called with: the tape, and the whole gradient of the recorded output.
  using Backward = std::function<void(Tape&, const Tensor& dy)>;

  enum class Mode { record, inference };

  explicit Tape(Context& context, Mode mode = Mode::record) : context_(context), mode_(mode) {}
  Tape(const Tape&) = delete;
  Tape& operator=(const Tape&) = delete;

  Context& context() { return context_; }
  Stream& stream() { return context_.stream(); }
  bool recording() const { return mode_ == Mode::record; }

  /// Makes a value a variable whose gradient the tape allocates, with the value's element type. For inputs of tests.
  Tensor variable(const Tensor& value);
  /// Makes a value a variable whose gradient goes to `gradient`, memory that outlives the tape (a window of the
  /// parameter store, fp32). `mode` says what the first use does: overwrite, or accumulate onto earlier micro-batches.
  Tensor variable(const Tensor& value, const Tensor& gradient, GradientMode mode);

  /// An uninitialised tensor for an operation's result. It is a variable when the tape records and one of the inputs
  /// (null and empty ones are passed over) is a variable.
  Tensor output(const Shape& shape, DType dtype, std::initializer_list<const Tensor*> inputs);

  /// Records how the gradient of `output` flows to the operation's inputs. Does nothing when `output` is no variable.
  /// `backward` is not called when no gradient has reached `output`.
  void record(std::string_view operation, const Tensor& output, Backward backward);

  /// Where the gradient of `x` goes, and how. The first call for a variable says overwrite, later ones accumulate, so
  /// the caller must write the target in full. Says ignore when `x` is no variable.
  GradientTarget gradient_target(const Tensor& x);

  /// Adopts `dx` as the gradient of `x` without a copy, when none has reached `x` so far and its gradient has no fixed
  /// place; returns false otherwise. The caller must not write `dx` afterwards; the tape adds to it once nobody else
  /// holds it, and to a copy before.
  bool give_gradient(const Tensor& x, const Tensor& dx);

  /// The gradient that has reached `x` so far, taken from it: nothing has reached x afterwards, and the caller may
  /// write the tensor. Empty when none has. `x` must be the output of an operation: one with several outputs takes the
  /// gradients of the others from the record of its last one, so that one pass serves all.
  Tensor take_gradient(const Tensor& x);

  /// Plays the tape back from `y`, whose gradient is `dy` (same shape and type). Each record is released as soon as it
  /// has been played, and the gradient of its output with it.
  void backward(const Tensor& y, const Tensor& dy);

  /// `whole` is called in backward() with the gradient of each variable that was made with a gradient of the caller's,
  /// as soon as no record still to be played adds to it; also where nothing has reached it. Variables that no operation
  /// has named among its inputs (output()) are left out. The gradient's memory must not be let go before the tape.
  void when_whole(std::function<void(const Tensor& gradient)> whole) { whole_ = std::move(whole); }

  /// The gradient that backward() left for a variable made by variable(); empty when none reached it.
  Tensor gradient(const Tensor& x) const;

 private:
  struct Variable {
    Tensor gradient;
    DType dtype;
    Shape shape;
    GradientMode first = GradientMode::overwrite;
    bool reached = false;                 // some gradient has been written
    bool adopted = false;                 // by give_gradient(): others may hold it too
    bool kept = false;                    // a leaf: its gradient stays after backward()
    bool whole = false;                   // a leaf to which nothing may be added any more
    std::vector<VariableId> leaves = {};  // among the inputs of the operation that made it
  };
  struct Record {
    std::string_view operation;
    VariableId output;
    Backward backward;
  };

  VariableId add_variable(Variable variable);
  /// For each record the leaves whose gradients are whole once it has been played: it is the first that used them.
  std::vector<std::vector<VariableId>> last_uses() const;

  Context& context_;
  Mode mode_;
  std::vector<Variable> variables_;
  std::vector<Record> records_;
  std::function<void(const Tensor&)> whole_;
};

}  // namespace dino
