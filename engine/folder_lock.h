#pragma once

#include <filesystem>
#include <string>

namespace dino {

/// Keeps a second process out of a folder. It is the system's lock on the folder itself (flock), so that it ends with
/// its process, whatever ends that, and leaves nothing behind; who only reads there need not ask.
class FolderLock {
 public:
  enum class State {
    held,         // here
    taken,        // by another FolderLock
    unavailable,  // the file system has no locks, or the folder cannot be opened
  };

  /// Takes the lock where it is free, at once.
  explicit FolderLock(std::filesystem::path folder);
  ~FolderLock();
  FolderLock(const FolderLock&) = delete;
  FolderLock& operator=(const FolderLock&) = delete;

  State state() const { return state_; }
  /// Who has the lock: `process 4711 (dino_cuda)`, or `another process` where the system does not say, as for one in
  /// another container or on another machine.
  std::string holder() const;
  /// Why it is unavailable, in the system's words.
  const std::string& trouble() const { return trouble_; }

  /// Sends what was written to the folder's file system to the disk, where the lock is held.
  void sync() const;

 private:
  std::filesystem::path folder_;
  int descriptor_;
  State state_;
  std::string trouble_;
};

}  // namespace dino
