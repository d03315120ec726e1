#pragma once

#include "engine/context.h"

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace dino::bench {

/// The sizes of a DINO step: a network, its crops and its head, for so many images.
struct Workload {
  std::string_view name;
  std::int64_t images;    // B
  std::int64_t width;     // C
  std::int64_t heads;     // H
  std::int64_t depth;     // blocks
  std::int64_t patch_px;  // P
  std::int64_t global_px = 224, local_px = 96;
  std::int64_t globals = 2, locals = 8;  // crops of an image
  std::int64_t head_hidden = 2048, bottleneck = 256;
  std::int64_t prototypes = 65536;                // K
  std::int64_t bank = 100'000, queries = 10'000;  // k-NN

  std::int64_t global_tokens() const { return 1 + (global_px / patch_px) * (global_px / patch_px); }
  std::int64_t local_tokens() const { return 1 + (local_px / patch_px) * (local_px / patch_px); }
  /// T, the student's tokens of all crops.
  std::int64_t tokens() const { return images * (globals * global_tokens() + locals * local_tokens()); }
  std::int64_t sequences() const { return images * (globals + locals); }
  std::int64_t mlp() const { return 4 * width; }
};
/// `vits16`, `vitb16` (both with the official crops and head) or `tiny`. Throws Error for any other name.
Workload workload_of(std::string_view name);
std::span<const Workload> workloads();

/// What a benchmark builds its arrays with. They are on the context's device, hold numbers in [-1, 1) that differ
/// from array to array and are the same in every run, and live as long as the bench does.
class Bench {
 public:
  Bench(Context& context, const Workload& workload, DType dtype)
      : context_(context), workload_(workload), dtype_(dtype) {}

  Context& context() const { return context_; }
  Stream& stream() const { return context_.stream(); }
  const Workload& workload() const { return workload_; }
  /// Of activations: what the benchmark is measured for.
  DType dtype() const { return dtype_; }
  bool on_cpu() const { return context_.device() == Device::cpu; }
  /// False: the libraries are not even opened.
  bool compares() const { return compares_; }
  void do_not_compare() { compares_ = false; }

  Array values(const Shape& shape) { return values(dtype_, shape); }
  Array values(DType dtype, const Shape& shape);  // float32, bfloat16 or uint8
  Array zeros(DType dtype, const Shape& shape);
  Array copy(const Array& array);
  Array indices(std::span<const std::int32_t> values);
  /// A table of plain structs, where kernels read it.
  template <typename T>
  std::span<const T> table(const std::vector<T>& entries) {
    const Array memory = zeros(DType::uint8, {static_cast<std::int64_t>(entries.size() * sizeof(T))});
    stream().copy_from_host(memory.data(), entries.data(), memory.size_bytes());
    return {static_cast<const T*>(memory.data()), entries.size()};
  }
  /// Offsets (S + 1) of the student's sequences, and for each of its tokens the sequence.
  std::vector<std::int32_t> sequence_offsets() const;
  std::vector<std::int32_t> sequence_of_tokens() const;

 private:
  Array keep(Tensor tensor);

  Context& context_;
  Workload workload_;
  DType dtype_;
  bool compares_ = true;
  std::vector<Tensor> kept_;
  std::int64_t arrays_of_values_ = 0;
};

/// Another way to compute the same, which the kernel is compared with.
struct Reference {
  std::string name;  // `textbook`, `oneDNN`, …
  std::function<void()> run;
  std::vector<Array> outputs{};  // of Prepared::outputs those that it writes; empty: all
};

/// A reference that a row goes without.
struct LeftOut {
  std::string name;
  std::string reason;
};

/// A benchmark at one size, ready to be timed.
struct Prepared {
  std::string size;           // `2760 x 384`
  std::function<void()> run;  // puts the operation on the stream
  double bytes = 0;           // that it has to move; of a kernel, prepare() fills both in from the operations' costs
  double flops = 0;
  std::vector<Reference> references{};
  std::vector<Array> outputs{};     // that `run` and the references write: they are compared
  std::function<void()> restore{};  // brings back the inputs that `run` changes, or none; only results need it
  double items = 0;                 // that a call deals with, for a rate; or none
  std::string_view item = "";       // `images`, `queries`, …
  std::vector<LeftOut> left_out{};
  std::string_view note = "";  // to stand with the references
};

/// One operation in one direction: the only definition of its inputs, formula and references. The program's `bench`,
/// the Google Benchmark binary and the tests of the references all run it.
struct Benchmark {
  std::string_view operation;  // the kernel's folder, or what a benchmark of the whole program is called
  std::string_view pass;       // `forward`, `backward`, …
  Prepared (*prepare)(Bench&);
  std::vector<DType> dtypes = {DType::float32, DType::bfloat16};
  bool whole_program = false;
  bool has_roofline = true;  // what its operations cost says how fast it could be
};

/// A benchmark's inputs, and the bytes and flops of the operations that it runs (cost_of): runs it once.
Prepared prepare(const Benchmark& benchmark, Bench& bench);

/// Makes a benchmark known: `const Registered kForward{{"gelu", "forward", prepare_forward}};` beside its definition.
struct Registered {
  explicit Registered(Benchmark benchmark);
};

/// All of them, by operation; those of one operation in the order of their file.
std::vector<Benchmark> benchmarks();

/// `bf16`, `fp32`, …, as tables have it.
std::string_view short_name(DType dtype);

}  // namespace dino::bench
