#include "benchmarks/agreement.h"

#include "kernels/common/error.h"

#include <algorithm>
#include <cmath>

namespace dino::bench {
namespace {

std::vector<std::byte> bytes_of(const Array& array, Stream& stream) {
  std::vector<std::byte> bytes(array.size_bytes());
  stream.copy_to_host(bytes.data(), array.data(), bytes.size());
  return bytes;
}

double value_at(const ConstArray& array, std::int64_t i) {
  switch (array.dtype()) {
    case DType::uint8: return array.as<std::uint8_t>()[i];
    case DType::int32: return array.as<std::int32_t>()[i];
    default: return load_double(array, i);
  }
}

/// ‖a − b‖ / ‖b‖ of arrays of the host. All threads: a row of a GPU's sizes has a hundred million numbers.
double relative_distance(const ConstArray& a, const ConstArray& b) {
  double difference = 0, norm = 0;
#pragma omp parallel for reduction(+ : difference, norm)
  for (std::int64_t i = 0; i < a.size(); ++i) {
    const double expected = value_at(b, i), apart = value_at(a, i) - expected;
    difference += apart * apart;
    norm += expected * expected;
  }
  return std::sqrt(difference / norm);
}

bool is_written_by(const Reference& reference, const Array& output) {
  return reference.outputs.empty() ||
         std::any_of(reference.outputs.begin(), reference.outputs.end(),
                     [&](const Array& written) { return written.data() == output.data(); });
}

}  // namespace

Agreement::Agreement(const Prepared& prepared, Stream& stream, DType dtype)
    : prepared_(prepared), stream_(stream), dtype_(dtype) {
  if (prepared.restore) prepared.restore();
  prepared.run();
  for (const Array& output : prepared.outputs) expected_.push_back(bytes_of(output, stream));
}

std::vector<double> Agreement::distances(const Reference& reference) const {
  for (const Array& output : prepared_.outputs) stream_.zero(output.data(), output.size_bytes());
  if (prepared_.restore) prepared_.restore();
  reference.run();
  std::vector<double> distances;
  for (std::size_t i = 0; i < expected_.size(); ++i) {
    const Array& output = prepared_.outputs[i];
    if (!is_written_by(reference, output)) continue;
    const std::vector<std::byte> bytes = bytes_of(output, stream_);
    const auto on_host = [&](const std::vector<std::byte>& of) {
      return ConstArray(of.data(), output.dtype(), output.shape());
    };
    distances.push_back(relative_distance(on_host(bytes), on_host(expected_[i])));
  }
  require(!distances.empty(), "bench", "nothing of what {} computes can be compared", reference.name);
  return distances;
}

void leave_out_wrong_references(Prepared& prepared, Stream& stream, DType dtype) {
  if (prepared.references.empty()) return;
  const Agreement agreement(prepared, stream, dtype);
  std::vector<Reference> right;
  for (Reference& reference : prepared.references) {
    std::string reason;
    try {
      for (const double distance : agreement.distances(reference)) {
        if (distance <= agreement.tolerance()) continue;
        reason = fmt::format("its results differ from the kernel's by {:.1e}; expected at most {:.1e}", distance,
                             agreement.tolerance());
      }
    } catch (const Error& error) {
      reason = error.what();
    }
    if (reason.empty()) {
      right.push_back(std::move(reference));
    } else {
      prepared.left_out.push_back({reference.name, reason});
    }
  }
  prepared.references = std::move(right);
}

}  // namespace dino::bench
