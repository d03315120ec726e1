#pragma once

#include "train/step_cost.h"

#include <nlohmann/json_fwd.hpp>

#include <map>
#include <string>
#include <utility>

namespace dino {

/// What a report of `dino_cuda bench --json` says of a machine: its copy and product rates, and for each operation how
/// near it comes to them.
class ReportedSpeeds final : public Speeds {
 public:
  /// Throws Error where the text is no such report.
  explicit ReportedSpeeds(const std::string& json_text);
  double ms_of(const CountedOperation& operation) const override;

  const std::string& machine() const { return machine_; }
  const std::string& device() const { return device_; }

 private:
  std::string machine_, device_;
  double bytes_per_s_ = 0, fp32_flops_per_s_ = 0, bf16_flops_per_s_ = 0;
  struct Share {
    double least_ms = 0, ms = 0;
  };
  std::map<std::pair<std::string, std::string>, Share> shares_;  // by folder and type
};

}  // namespace dino
