#pragma once

#include "engine/progress.h"

#include <cstdio>
#include <memory>
#include <string>
#include <string_view>

namespace dino {

/// Progress of work in several stages: a bar for each, one after the other.
class StageBars {
 public:
  /// Without `shown`, nothing is: on all ranks but the first.
  explicit StageBars(bool shown = true) : out_(shown ? stderr : nullptr) {}

  void update(const std::string& stage, std::int64_t done, std::int64_t total, std::string_view details = {}) {
    if (!bar_ || stage != stage_) {
      bar_.reset();  // ends the line of the last one
      // What is done already when a stage begins was not done at its pace.
      bar_ = std::make_unique<Progress>(stage, total, done, out_);
      stage_ = stage;
    }
    bar_->update(done, details);
  }
  void message(std::string_view line) {
    if (bar_) bar_->message(line);
  }
  void end() { bar_.reset(); }

 private:
  std::FILE* out_;
  std::unique_ptr<Progress> bar_;
  std::string stage_;
};

}  // namespace dino
