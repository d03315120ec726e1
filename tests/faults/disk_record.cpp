#include "tests/faults/disk_record.h"

#include "engine/files.h"

#include <algorithm>
#include <sstream>
#include <stdexcept>
#include <utility>

namespace dino::test {
namespace {

constexpr std::size_t kSector_bytes = 512;

/// Sector by sector what was there or what was to come.
std::string torn_content(const std::string& synced, const std::string& now, std::mt19937& random) {
  std::string content = random() % 2 == 0 ? now : synced;
  for (std::size_t at = 0; at < content.size(); at += kSector_bytes) {
    const std::string& from = random() % 2 == 0 ? now : synced;
    for (std::size_t i = at; i < std::min(at + kSector_bytes, content.size()); ++i) {
      content[i] = i < from.size() ? from[i] : '\0';
    }
  }
  return content;
}

}  // namespace

std::vector<DiskCall> read_disk_record(const std::filesystem::path& record, const std::filesystem::path& folder) {
  std::vector<DiskCall> calls;
  std::istringstream text(read_text_file(record));
  const auto name = [&] {
    std::string path;
    std::getline(text, path);
    const std::filesystem::path file(path);
    if (file != folder && file.parent_path() != folder) throw std::runtime_error("a file beside the folder: " + path);
    return file.filename().string();
  };
  for (std::string word; text >> word;) {
    DiskCall& call = calls.emplace_back();
    if (word == "open") {
      call.kind = DiskCall::Kind::open;
      text >> call.descriptor >> call.truncates >> std::ws;
      call.first = name();
    } else if (word == "write") {
      std::size_t size = 0;
      call.kind = DiskCall::Kind::write;
      text >> call.descriptor >> call.offset >> size;
      text.get();
      call.first.resize(size);
      text.read(call.first.data(), static_cast<std::streamsize>(size));
    } else if (word == "sync" || word == "close") {
      call.kind = word == "sync" ? DiskCall::Kind::sync : DiskCall::Kind::close;
      text >> call.descriptor >> std::ws;
    } else {
      text >> std::ws;
      call.kind = word == "sync_folder" ? DiskCall::Kind::sync_folder
                  : word == "rename"    ? DiskCall::Kind::rename
                  : word == "link"      ? DiskCall::Kind::link
                                        : DiskCall::Kind::unlink;
      call.first = name();
      if (word == "rename" || word == "link") call.second = name();
      if (call.kind == DiskCall::Kind::unlink && word != "unlink") throw std::runtime_error("not a call: " + word);
    }
    if (!text) throw std::runtime_error("the record is cut at " + word);
  }
  return calls;
}

void DiskModel::change(std::vector<Change> step) {
  for (const Change& part : step) {
    now_.erase(part.name);
    if (part.file) now_[part.name] = part.file;
  }
  waiting_.push_back(std::move(step));
}

void DiskModel::apply(const DiskCall& call) {
  switch (call.kind) {
    case DiskCall::Kind::open: {
      if (!now_.contains(call.first)) change({{call.first, std::make_shared<File>()}});
      open_[call.descriptor] = now_.at(call.first);
      if (call.truncates) open_[call.descriptor]->now.clear();
      break;
    }
    case DiskCall::Kind::write: {
      std::string& content = open_.at(call.descriptor)->now;
      content.resize(std::max(content.size(), call.offset + call.first.size()));
      content.replace(call.offset, call.first.size(), call.first);
      break;
    }
    case DiskCall::Kind::sync: {
      File& file = *open_.at(call.descriptor);
      file.synced = file.now;
      break;
    }
    case DiskCall::Kind::close: open_.erase(call.descriptor); break;
    case DiskCall::Kind::sync_folder:
      synced_ = now_;
      waiting_.clear();
      break;
    case DiskCall::Kind::rename:
      // Between two names of one file it does nothing.
      if (now_.contains(call.second) && now_.at(call.second) == now_.at(call.first)) break;
      change({{call.second, now_.at(call.first)}, {call.first, nullptr}});
      break;
    case DiskCall::Kind::link: change({{call.second, now_.at(call.first)}}); break;
    case DiskCall::Kind::unlink: change({{call.first, nullptr}}); break;
  }
}

std::map<std::string, std::string> DiskModel::after(PowerLoss loss, std::mt19937& random) const {
  Names names = loss == PowerLoss::nothing_lost || loss == PowerLoss::late_data ? now_ : synced_;
  if (loss == PowerLoss::torn) {
    const std::size_t kept = random() % (waiting_.size() + 1);
    for (std::size_t i = 0; i < kept; ++i) {
      for (const Change& part : waiting_[i]) {
        names.erase(part.name);
        if (part.file) names[part.name] = part.file;
      }
    }
  }
  std::map<std::string, std::string> contents;
  for (const auto& [name, file] : names) {
    contents[name] = loss == PowerLoss::nothing_lost ? file->now
                     : loss == PowerLoss::torn       ? torn_content(file->synced, file->now, random)
                                                     : file->synced;
  }
  return contents;
}

}  // namespace dino::test
