#pragma once

#include "kernels/common/array.h"
#include "kernels/common/stream.h"

namespace dino {

/// The ranks of a distributed run, each with one device. Collectives are put on the stream of the calling rank, in the
/// same order on every rank.
class Communicator {
 public:
  virtual ~Communicator() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;
  /// Replaces `values` (fp32, on the stream's device) by their sum over all ranks; the same bits on every rank.
  virtual void all_reduce_sum(const Array& values, Stream& stream) = 0;
  virtual void barrier() = 0;
};

/// The only rank there is.
class SingleProcess final : public Communicator {
 public:
  int rank() const override { return 0; }
  int size() const override { return 1; }
  void all_reduce_sum(const Array&, Stream&) override {}
  void barrier() override {}
};

}  // namespace dino
