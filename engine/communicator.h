#pragma once

#include "kernels/common/array.h"
#include "kernels/common/stream.h"

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>

namespace dino {

/// The ranks of a distributed run, each with one device. Every rank calls the same collectives in the same order, each
/// with the same `name`, which messages show: `gradients 3 of 12`.
///
/// All collectives throw Error on every rank that is still there when one of them has ended or failed, does not arrive
/// within the time limit, or calls another collective. The communicator is of no more use then.
class Communicator {
 public:
  virtual ~Communicator() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;

  // On the stream's device and in its order.

  /// Replaces `values` (float32 or bfloat16) by their sum over all ranks; the same bits on every rank.
  virtual void all_reduce_sum(const Array& values, Stream& stream, std::string_view name) = 0;
  /// `all` gets what every rank gives, in the order of ranks: all.size() = size() · mine.size(), of one element type.
  virtual void all_gather(const ConstArray& mine, const Array& all, Stream& stream, std::string_view name) = 0;
  /// Every rank gets the values of `root`.
  virtual void broadcast(const Array& values, int root, Stream& stream, std::string_view name) = 0;

  // In host memory; they return when it is done. For what is small: checks, positions, counts.

  /// `all` (size() · mine.size() bytes) gets what every rank gives, in the order of ranks.
  virtual void all_gather_host(std::span<const std::byte> mine, std::span<std::byte> all, std::string_view name) = 0;
  virtual void broadcast_host(std::span<std::byte> bytes, int root, std::string_view name) = 0;
  /// Returns when every rank has called it.
  virtual void barrier(std::string_view name) = 0;

  /// Whether collectives on a stream may be part of a recording (Stream::begin_recording).
  virtual bool recordable() const { return false; }
  /// A step of the run is put on the stream, or its result has arrived. Time limits count between the two, messages
  /// name the step. step_finished() throws where a collective has failed since.
  virtual void step_started(std::int64_t /*step*/) {}
  virtual void step_finished(std::int64_t /*step*/) {}
  /// Tells the others that this rank ends, and why, so that they end as well and say so. One that goes without is
  /// noticed all the same.
  virtual void abort(std::string_view /*reason*/) noexcept {}
};

/// The only rank there is.
class SingleProcess final : public Communicator {
 public:
  int rank() const override { return 0; }
  int size() const override { return 1; }
  void all_reduce_sum(const Array&, Stream&, std::string_view) override {}
  void all_gather(const ConstArray& mine, const Array& all, Stream& stream, std::string_view) override {
    stream.copy(all.data(), mine.data(), mine.size_bytes());
  }
  void broadcast(const Array&, int, Stream&, std::string_view) override {}
  void all_gather_host(std::span<const std::byte> mine, std::span<std::byte> all, std::string_view) override {
    if (!mine.empty()) std::memcpy(all.data(), mine.data(), mine.size());
  }
  void broadcast_host(std::span<std::byte>, int, std::string_view) override {}
  void barrier(std::string_view) override {}
  bool recordable() const override { return true; }
};

}  // namespace dino
