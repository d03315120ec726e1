#pragma once

#include "engine/context.h"
#include "engine/random.h"
#include "selftest/checks.h"

#include <concepts>
#include <cstring>
#include <initializer_list>
#include <memory>
#include <span>
#include <utility>

namespace dino {

/// Where one operation is compared with its oracle: makes its arrays on the device and on the host, runs both, and
/// keeps the errors.
class KernelBench {
 public:
  /// An array that exists twice. What the oracle writes, it writes in double.
  struct Value {
    Tensor device;
    std::shared_ptr<std::vector<std::byte>> host;
    DType host_dtype;
    Array host_array() const { return {host->data(), host_dtype, device.shape()}; }
  };
  /// A table of structs on the device and on the host.
  template <typename Entry>
  struct Table {
    Tensor device;
    std::vector<Entry> host;
  };
  enum class Side { device, oracle };
  /// Picks the array of one side.
  struct At {
    Side side;
    Array operator()(const Value& value) const {
      return side == Side::device ? value.device.array() : value.host_array();
    }
    template <typename Entry>
    std::span<const Entry> operator()(const Table<Entry>& table) const {
      if (side == Side::oracle) return table.host;
      return {reinterpret_cast<const Entry*>(table.device.data()), table.host.size()};
    }
  };
  struct Expectation {
    const char* name;
    const Value& value;
    double bound;
  };

  KernelBench(Context& context, DType dtype) : context_(context), dtype_(dtype) {}

  DType dtype() const { return dtype_; }
  bool is_bf16() const { return dtype_ == DType::bfloat16; }
  /// A bound for results in the bench's element type.
  double bound(double fp32, double bf16) const { return is_bf16() ? bf16 : fp32; }

  /// Inputs: normally distributed, a function of the calls before only.
  Value normal(DType dtype, const Shape& shape, double scale = 1, double mean = 0);
  Value normal(const Shape& shape, double scale = 1, double mean = 0) { return normal(dtype_, shape, scale, mean); }
  /// Multiples of 1/8, whose products are exact, and many of which are equal.
  Value coarse(const Shape& shape);
  Value integers(const Shape& shape, const std::vector<std::int32_t>& values);
  Value bytes(const Shape& shape);
  /// What the oracle made of something, as an input.
  Value input_of(DType dtype, const Value& result);
  /// The same input, which the oracle is given in double.
  Value widened(const Value& input) const;
  template <typename Entry>
  Table<Entry> table(std::vector<Entry> entries) {
    const ConstArray bytes(reinterpret_cast<const std::uint8_t*>(entries.data()),
                           {static_cast<std::int64_t>(entries.size() * sizeof(Entry))});
    return {context_.from_host(bytes), std::move(entries)};
  }

  /// An output that is NaN (integers: -1) before.
  Value result(DType dtype, const Shape& shape);
  Value result(const Shape& shape) { return result(dtype_, shape); }
  /// An output that is read as well: the device's and the oracle's begin with the same values.
  Value updated(DType dtype, const Shape& shape, double scale = 1, double mean = 0);
  Value updated(const Shape& shape, double scale = 1, double mean = 0) { return updated(dtype_, shape, scale, mean); }

  /// Runs `kernel` and `oracle` on the arguments that `make` builds for each side, and compares what came out.
  template <typename Make, typename Kernel, typename Oracle>
  void run(const Make& make, Kernel kernel, Oracle oracle, std::initializer_list<Expectation> expected) {
    oracle(make(At{Side::oracle}));
    kernel(make(At{Side::device}), context_.stream());
    for (const Expectation& e : expected) compare(e);
  }
  /// Runs the oracle alone, for inputs of what follows.
  template <typename Make, typename Oracle>
  void prepare(const Make& make, Oracle oracle) {
    oracle(make(At{Side::oracle}));
  }

  const WorstError& worst() const { return worst_; }

 private:
  Value place(DType dtype, const Shape& shape, const std::vector<std::byte>& bytes);
  std::vector<std::byte> random_bytes(DType dtype, const Shape& shape, double scale, double mean);
  void compare(const Expectation& expected);

  Context& context_;
  DType dtype_;
  std::uint64_t drawn_ = 0;
  WorstError worst_;
};

}  // namespace dino
